/* What the parts of netbench's DPDK peer share.
 *
 * A process plays one role on one or two lcores. Its main lcore talks to netbench over stdin and
 * stdout (peer.c) and sleeps the rest of the time; the roles spin on worker lcores (memif.c between
 * processes, rings.c between two lcores of one process). A worker alone writes its counters, the
 * main lcore only reads them.
 */
#ifndef NETBENCH_PEER_H
#define NETBENCH_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_common.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* Largest burst that any row asks for. */
#define BURST_MAX 256

/* Mbufs that a mempool keeps per lcore: as many as DPDK lets it. */
#define POOL_CACHE RTE_MEMPOOL_CACHE_MAX_SIZE

/* Log-linear histogram of TSC cycles: exact up to 2,048, then 1,024 steps per doubling. */
#define HISTOGRAM_STEPS_LOG2 10
#define HISTOGRAM_SLOTS ((64 - HISTOGRAM_STEPS_LOG2) << HISTOGRAM_STEPS_LOG2)

struct counters {
	uint64_t packets;
	uint64_t bytes;
	uint64_t corrupt; /* packets that the sender did not write so, or wrote before */
	uint64_t lost;    /* sequence numbers that never came */
} __rte_cache_aligned;

/* One worker lcore's work and what it says about it. */
struct worker {
	volatile bool stop;
	volatile bool halt;          /* stop making packets, keep everything else running */
	volatile bool halted;        /* answered by the worker */
	volatile bool clear;         /* forget the round trips so far */
	struct counters count;
	uint64_t round_trips[HISTOGRAM_SLOTS];
};

struct options {
	const char *role;
	uint32_t size;    /* bytes of a packet */
	uint32_t burst;
	uint32_t mbufs;   /* in the pool */
	uint32_t ring;    /* slots of an rte_ring */
	const char *ops;  /* mempool driver, or nothing for DPDK's own choice */
	bool touch;       /* receivers read and check every byte; otherwise look at descriptors only */
	bool yield;       /* give the core up when there is nothing to do: it is shared */
};

extern struct options options;
extern struct rte_mempool *pool;

typedef int role_fn(void *worker);

/* memif.c */
role_fn role_send, role_receive, role_ping, role_echo, role_forward;

/* rings.c */
int rings_create(void);
role_fn role_handoff_send, role_handoff_receive, role_ring_ping, role_ring_echo;

/* Adds one round trip of `cycles`. */
static inline void
record_round_trip(struct worker *worker, uint64_t cycles)
{
	unsigned int bits = 64 - __builtin_clzll(cycles | 1);
	unsigned int shift = bits > HISTOGRAM_STEPS_LOG2 + 1 ? bits - HISTOGRAM_STEPS_LOG2 - 1 : 0;

	worker->round_trips[(shift << HISTOGRAM_STEPS_LOG2) + (cycles >> shift)]++;
}

/* Holds one received packet with sequence number `seen` against the one that must come next. */
static inline void
count_packet(struct counters *count, uint64_t *expected, uint64_t seen, bool intact)
{
	if (likely(intact && seen == *expected)) {
		(*expected)++;
		return;
	}
	if (!intact || seen < *expected) {
		count->corrupt++;
		return;
	}
	count->lost += seen - *expected;
	*expected = seen + 1;
}

/* The mbufs of `burst` are single segments that nobody else holds, as everything here is. */
static inline bool
is_plain(const struct rte_mbuf *mbuf)
{
	return likely(mbuf->nb_segs == 1);
}

/* Gives back plain mbufs in one piece, as drivers with MBUF_FAST_FREE do. */
static inline void
free_plain(struct rte_mbuf **burst, unsigned int n)
{
	rte_mempool_put_bulk(burst[0]->pool, (void **)burst, n);
}

/* Makes `n` plain mbufs of `size` bytes; false when the pool is dry. A pool's mbufs are already
 * unshared single segments, so only what a receiver may have changed is written. */
static inline bool
alloc_plain(struct rte_mbuf **burst, unsigned int n, uint32_t size)
{
	if (unlikely(rte_mempool_get_bulk(pool, (void **)burst, n) != 0))
		return false;
	for (unsigned int i = 0; i < n; i++) {
		burst[i]->data_off = RTE_PKTMBUF_HEADROOM;
		burst[i]->ol_flags = 0;
		burst[i]->data_len = size;
		burst[i]->pkt_len = size;
	}
	return true;
}

#endif
