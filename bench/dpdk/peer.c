/* netbench's own DPDK peer: the packet paths of testpmd, with every byte written and read.
 *
 *     peer EAL-OPTIONS -- role=receive size=64 burst=32 ...
 *
 * It says `started` when its ports are, so that a client can be started that finds its server, and
 * `ready` when the link is up and the workers run. Then it answers one line to each line that it is
 * given: `stats`, `halt` (senders stop sending), `clear` and `histogram` (round trips). The end of
 * stdin ends the process, so it cannot outlive netbench.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_version.h>

#include "peer.h"

/* How long the other process may take to come up. */
#define LINK_TIMEOUT_MS 20000

/* Ports that a role may have. */
#define PORTS_MAX 2

struct options options = {
	.role = "",
	.size = 64,
	.burst = 32,
	.mbufs = 4096,
	.ring = 1024,
	.touch = true,
};
struct rte_mempool *pool;

static const struct role {
	const char *name;
	unsigned int ports;
	role_fn *first, *second; /* by worker lcore */
} roles[] = {
	{ "send", 1, role_send, NULL },
	{ "receive", 1, role_receive, NULL },
	{ "ping", 1, role_ping, NULL },
	{ "echo", 1, role_echo, NULL },
	{ "forward", 2, role_forward, NULL },
	{ "handoff", 0, role_handoff_send, role_handoff_receive },
	{ "ring", 0, role_ring_ping, role_ring_echo },
};

static struct worker workers[2];

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("peer: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static uint32_t
number(const char *text, uint32_t min, uint32_t max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text == '\0' || *end != '\0' || value < min || value > max)
		fail("%s is not a number from %u to %u", text, min, max);
	return value;
}

static void
parse(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (value == NULL)
			fail("%s is not KEY=VALUE", argv[i]);
		*value++ = '\0';
		if (strcmp(argv[i], "role") == 0)
			options.role = value;
		else if (strcmp(argv[i], "size") == 0)
			options.size = number(value, 64, 9216);
		else if (strcmp(argv[i], "burst") == 0)
			options.burst = number(value, 1, BURST_MAX);
		else if (strcmp(argv[i], "mbufs") == 0)
			options.mbufs = number(value, 1024, 1 << 16);
		else if (strcmp(argv[i], "ring") == 0)
			options.ring = number(value, 64, 1 << 16);
		else if (strcmp(argv[i], "ops") == 0)
			options.ops = value;
		else if (strcmp(argv[i], "touch") == 0)
			options.touch = number(value, 0, 1);
		else if (strcmp(argv[i], "yield") == 0)
			options.yield = number(value, 0, 1);
		else
			fail("%s is no option", argv[i]);
	}
}

static void
create_pool(void)
{
	/* The driver's buffer is 2,048 bytes unless a packet needs more; ours must hold as much. */
	uint32_t room = RTE_PKTMBUF_HEADROOM + RTE_MAX(options.size, 2048u);

	pool = rte_pktmbuf_pool_create_by_ops("packets", options.mbufs, POOL_CACHE, 0,
		RTE_ALIGN(room, 64), SOCKET_ID_ANY, options.ops);
	if (pool == NULL)
		fail("no memory for %u packets: %s", options.mbufs, rte_strerror(rte_errno));
}

static void
start_port(uint16_t port)
{
	struct rte_eth_conf conf = { 0 };
	int error = rte_eth_dev_configure(port, 1, 1, &conf);

	if (error == 0)
		error = rte_eth_rx_queue_setup(port, 0, 0, SOCKET_ID_ANY, NULL, pool);
	if (error == 0)
		error = rte_eth_tx_queue_setup(port, 0, 0, SOCKET_ID_ANY, NULL);
	if (error == 0)
		error = rte_eth_dev_start(port);
	if (error != 0)
		fail("port %u does not start: %s", port, rte_strerror(-error));
}

static void
await_link(uint16_t port)
{
	struct rte_eth_link link;

	for (int ms = 0; ms < LINK_TIMEOUT_MS; ms++) {
		if (rte_eth_link_get_nowait(port, &link) == 0 && link.link_status)
			return;
		usleep(1000);
	}
	fail("port %u: the other process did not connect within %d ms", port, LINK_TIMEOUT_MS);
}

static void
print_stats(void)
{
	/* Of a pair the second receives; what it says is what arrived. */
	const struct counters *count = &workers[rte_lcore_count() > 2 ? 1 : 0].count;
	uint64_t packets = *(const volatile uint64_t *)&count->packets;

	printf("stats %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", rte_rdtsc(),
		packets, *(const volatile uint64_t *)&count->bytes,
		*(const volatile uint64_t *)&count->corrupt,
		*(const volatile uint64_t *)&count->lost);
}

/* Pairs of cycles and how many round trips took as long. */
static void
print_histogram(void)
{
	const struct worker *worker = &workers[0];

	printf("histogram");
	for (uint64_t slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
		uint64_t times = worker->round_trips[slot];
		uint64_t shift = slot < 2 << HISTOGRAM_STEPS_LOG2 ? 0 :
			(slot >> HISTOGRAM_STEPS_LOG2) - 1;

		if (times != 0)
			printf(" %" PRIu64 ":%" PRIu64,
				(slot - (shift << HISTOGRAM_STEPS_LOG2)) << shift, times);
	}
	printf("\n");
}

/* Waits until the worker has seen the flag, so that the answer is true when it is given. */
static void
hand(volatile bool *flag, volatile bool *answer, bool wanted)
{
	*flag = true;
	while (*answer != wanted)
		usleep(100);
}

static void
serve(void)
{
	char line[64];

	while (fgets(line, sizeof(line), stdin) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, "stats") == 0) {
			print_stats();
		} else if (strcmp(line, "halt") == 0) {
			hand(&workers[0].halt, &workers[0].halted, true);
			print_stats();
		} else if (strcmp(line, "clear") == 0) {
			hand(&workers[0].clear, &workers[0].clear, false);
			printf("clear\n");
		} else if (strcmp(line, "histogram") == 0) {
			print_histogram();
		} else {
			printf("unknown\n");
		}
	}
}

int
main(int argc, char **argv)
{
	const struct role *role = NULL;
	unsigned int lcore, n = 0;
	int used;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	used = rte_eal_init(argc, argv);
	if (used < 0)
		fail("DPDK does not start: %s", rte_strerror(rte_errno));
	parse(argc - used, argv + used);
	for (size_t i = 0; i < RTE_DIM(roles); i++)
		if (strcmp(roles[i].name, options.role) == 0)
			role = &roles[i];
	if (role == NULL)
		fail("%s is no role", options.role);
	if (role->ports > PORTS_MAX || rte_eth_dev_count_avail() != role->ports)
		fail("role %s needs %u ports", role->name, role->ports);
	if (rte_lcore_count() != (role->second ? 3 : 2))
		fail("role %s needs a main lcore and %d workers", role->name, role->second ? 2 : 1);

	create_pool();
	if (role->ports == 0 && rings_create() != 0)
		fail("no rings: %s", rte_strerror(rte_errno));
	for (uint16_t port = 0; port < role->ports; port++)
		start_port(port);
	printf("started\n");
	for (uint16_t port = 0; port < role->ports; port++)
		await_link(port);
	RTE_LCORE_FOREACH_WORKER(lcore) {
		rte_eal_remote_launch(n == 0 ? role->first : role->second, &workers[n], lcore);
		n++;
	}
	printf("ready %" PRIu64 " %s\n", rte_get_tsc_hz(), rte_version());
	serve();

	for (unsigned int i = 0; i < n; i++)
		workers[i].stop = true;
	rte_eal_mp_wait_lcore();
	/* Ports before memory: a peer that is told goes away cleanly, and the socket is unlinked. */
	for (uint16_t port = 0; port < role->ports; port++) {
		rte_eth_dev_stop(port);
		rte_eth_dev_close(port);
	}
	rte_eal_cleanup();
	return 0;
}
