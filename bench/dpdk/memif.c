/* Roles between processes, over whatever ethdev port netbench configured: it is net_memif.
 *
 * Everything moves in bursts: one bulk allocation, one transmit, one receive, one bulk free. With
 * zero-copy the client's own mbufs are what the other process reads or writes, and one copy is left,
 * by the server; without it each side copies. Nothing is dropped: what the ring did not take is
 * offered again, so a lost sequence number is a fault of the path.
 */
#include <sched.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_pause.h>
#include <rte_prefetch.h>

#include "pattern.h"
#include "peer.h"

/* Lines under way ahead of the packet that is being read, and of one packet; measured from none to
 * all of a burst. Short packets: half a burst and more; long ones: two, the hardware's streamer has
 * the rest. */
#define PREFETCH_LINES 32
#define PREFETCH_PACKET_LINES 24
#define PREFETCH_AHEAD_MIN 2

static inline void
idle(void)
{
	if (options.yield)
		sched_yield();
	else
		rte_pause();
}

static inline void
prefetch_packet(const struct rte_mbuf *mbuf, uint32_t lines)
{
	const uint8_t *bytes = rte_pktmbuf_mtod(mbuf, const uint8_t *);

	for (uint32_t line = 0; line < lines; line++)
		rte_prefetch0(bytes + line * 64);
}

/* Sends all of a burst; returns how much went before the worker was told to stop. */
static inline unsigned int
send_all(struct worker *worker, uint16_t port, struct rte_mbuf **burst, unsigned int n)
{
	unsigned int sent = rte_eth_tx_burst(port, 0, burst, n);

	while (unlikely(sent < n) && !worker->stop) {
		idle();
		sent += rte_eth_tx_burst(port, 0, burst + sent, n - sent);
	}
	if (unlikely(sent < n))
		free_plain(burst + sent, n - sent);
	return sent;
}

int
role_send(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];
	uint32_t size = options.size;
	uint64_t next = 0;

	while (!worker->stop) {
		unsigned int n = options.burst;

		if (unlikely(worker->halt)) {
			worker->halted = true;
			idle();
			continue;
		}
		if (unlikely(!alloc_plain(burst, n, size))) {
			idle();
			continue;
		}
		for (unsigned int i = 0; i < n; i++)
			pattern_write(rte_pktmbuf_mtod(burst[i], uint8_t *), size, next++);
		n = send_all(worker, 0, burst, n);
		worker->count.packets += n;
		worker->count.bytes += (uint64_t)n * size;
	}
	return 0;
}

static inline void
check_burst(struct worker *worker, struct rte_mbuf **burst, unsigned int n, uint64_t *expected)
{
	uint32_t size = options.size;
	uint32_t lines = RTE_MIN((size + 63) / 64, (uint32_t)PREFETCH_PACKET_LINES);
	unsigned int ahead = RTE_MAX(PREFETCH_LINES / lines, (uint32_t)PREFETCH_AHEAD_MIN);

	for (unsigned int i = 0; i < RTE_MIN(n, ahead); i++)
		prefetch_packet(burst[i], lines);
	for (unsigned int i = 0; i < n; i++) {
		const struct rte_mbuf *mbuf = burst[i];
		const uint8_t *bytes = rte_pktmbuf_mtod(mbuf, const uint8_t *);
		uint64_t seen = *expected;

		if (i + ahead < n)
			prefetch_packet(burst[i + ahead], lines);
		bool intact = is_plain(mbuf) && mbuf->data_len == size &&
			pattern_check(bytes, size, &seen);
		count_packet(&worker->count, expected, seen, intact);
	}
}

int
role_receive(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];
	uint64_t expected = 0;

	while (!worker->stop) {
		unsigned int n = rte_eth_rx_burst(0, 0, burst, options.burst);

		if (n == 0) {
			idle();
			continue;
		}
		if (options.touch)
			check_burst(worker, burst, n, &expected);
		free_plain(burst, n);
		worker->count.packets += n;
		worker->count.bytes += (uint64_t)n * options.size;
	}
	return 0;
}

/* One packet there and back; the time between handing it out and having read all of the answer. */
int
role_ping(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *out, *in[BURST_MAX];
	uint32_t size = options.size;
	uint64_t next = 0;

	while (!worker->stop) {
		uint64_t start, seen = next;
		unsigned int n;

		if (unlikely(worker->clear)) {
			memset(worker->round_trips, 0, sizeof(worker->round_trips));
			worker->clear = false;
		}
		if (unlikely(!alloc_plain(&out, 1, size)))
			continue;
		start = rte_rdtsc();
		pattern_write(rte_pktmbuf_mtod(out, uint8_t *), size, next);
		send_all(worker, 0, &out, 1);
		while ((n = rte_eth_rx_burst(0, 0, in, 1)) == 0 && !worker->stop)
			;
		if (n == 0)
			break;
		bool intact = in[0]->data_len == size && is_plain(in[0]) &&
			pattern_check(rte_pktmbuf_mtod(in[0], const uint8_t *), size, &seen);
		record_round_trip(worker, rte_rdtsc() - start);
		count_packet(&worker->count, &next, seen, intact);
		if (unlikely(!intact))
			next++;
		free_plain(in, 1);
		worker->count.packets++;
		worker->count.bytes += size;
	}
	return 0;
}

/* Reads every byte of what comes and sends the same packet back. */
int
role_echo(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];
	uint64_t expected = 0;

	while (!worker->stop) {
		unsigned int n = rte_eth_rx_burst(0, 0, burst, options.burst);

		if (n == 0)
			continue;
		check_burst(worker, burst, n, &expected);
		worker->count.packets += send_all(worker, 0, burst, n);
	}
	return 0;
}

/* Swaps the MAC addresses of what comes from port 0 and sends it on by port 1. */
int
role_forward(void *arg)
{
	struct worker *worker = arg;
	struct rte_mbuf *burst[BURST_MAX];

	while (!worker->stop) {
		unsigned int n = rte_eth_rx_burst(0, 0, burst, options.burst);

		if (n == 0) {
			idle();
			continue;
		}
		for (unsigned int i = 0; i < n; i++)
			rte_prefetch0(rte_pktmbuf_mtod(burst[i], void *));
		for (unsigned int i = 0; i < n; i++) {
			struct rte_ether_hdr *head =
				rte_pktmbuf_mtod(burst[i], struct rte_ether_hdr *);
			struct rte_ether_addr from = head->src_addr;

			head->src_addr = head->dst_addr;
			head->dst_addr = from;
		}
		worker->count.packets += send_all(worker, 1, burst, n);
	}
	return 0;
}
