/* Roles between two lcores of one process: what DPDK costs where there is no border to cross.
 *
 * `handoff` is a pipeline: one lcore allocates mbufs and writes them, an rte_ring carries the
 * pointers, the other lcore reads every byte and frees them. `ring` bounces one pointer through two
 * rings and touches no packet at all. All rings have one producer and one consumer.
 */
#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_memory.h>
#include <rte_pause.h>
#include <rte_prefetch.h>
#include <rte_ring.h>

#include "pattern.h"
#include "peer.h"

/* Where an mbuf's data begins, without looking into it: our pool has no private area. */
#define DATA_OFFSET (sizeof(struct rte_mbuf) + RTE_PKTMBUF_HEADROOM)

static struct rte_ring *there, *back;

int
rings_create(void)
{
	there = rte_ring_create("there", options.ring, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	back = rte_ring_create("back", options.ring, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	return there != NULL && back != NULL ? 0 : -1;
}

int
role_handoff_send(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];
	uint32_t size = options.size;
	uint64_t next = 0;

	while (!worker->stop) {
		unsigned int n = options.burst, sent = 0;

		if (unlikely(worker->halt)) {
			worker->halted = true;
			rte_pause();
			continue;
		}
		if (unlikely(!alloc_plain(burst, n, size))) {
			rte_pause();
			continue;
		}
		if (options.touch)
			for (unsigned int i = 0; i < n; i++)
				pattern_write(rte_pktmbuf_mtod(burst[i], uint8_t *), size, next++);
		while ((sent += rte_ring_sp_enqueue_burst(there, (void **)burst + sent, n - sent,
				NULL)) < n && !worker->stop)
			rte_pause();
		worker->count.packets += sent;
	}
	return 0;
}

int
role_handoff_receive(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];
	uint32_t size = options.size;
	uint64_t expected = 0;

	while (!worker->stop) {
		unsigned int n = rte_ring_sc_dequeue_burst(there, (void **)burst, options.burst, NULL);

		if (n == 0) {
			rte_pause();
			continue;
		}
		if (options.touch) {
			for (unsigned int i = 0; i < n; i++) {
				rte_prefetch0(burst[i]);
				rte_prefetch0(RTE_PTR_ADD(burst[i], DATA_OFFSET));
			}
			for (unsigned int i = 0; i < n; i++) {
				uint64_t seen = expected;
				bool intact = burst[i]->data_len == size && pattern_check(
					rte_pktmbuf_mtod(burst[i], const uint8_t *), size, &seen);

				count_packet(&worker->count, &expected, seen, intact);
			}
		}
		free_plain(burst, n);
		worker->count.packets += n;
		worker->count.bytes += (uint64_t)n * size;
	}
	return 0;
}

int
role_ring_ping(void *arg)
{
	struct worker *worker = arg;
	void *out = worker, *in;

	while (!worker->stop) {
		uint64_t start = rte_rdtsc();

		if (unlikely(worker->clear)) {
			memset(worker->round_trips, 0, sizeof(worker->round_trips));
			worker->clear = false;
			start = rte_rdtsc();
		}
		rte_ring_sp_enqueue(there, out);
		while (rte_ring_sc_dequeue(back, &in) != 0)
			if (worker->stop)
				return 0;
		record_round_trip(worker, rte_rdtsc() - start);
		worker->count.packets++;
	}
	return 0;
}

int
role_ring_echo(void *arg)
{
	struct worker *worker = arg;
	void *token;

	while (!worker->stop)
		if (rte_ring_sc_dequeue(there, &token) == 0)
			rte_ring_sp_enqueue(back, token);
	return 0;
}
