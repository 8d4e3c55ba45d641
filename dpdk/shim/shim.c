/* The C half of the binding: see shim.h for what each function promises. */
#define _GNU_SOURCE
/* rte_intr_instance_alloc and its setters are marked experimental in 22.11 and stable from 23.11 on. */
#define ALLOW_EXPERIMENTAL_API
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_interrupts.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_net.h>
#include <rte_telemetry.h>

/* ---- Layouts: Rust's view of an mbuf against DPDK's, and the few of DPDK's structures that Rust uses as they are. */

#define SAME(view, field, real)                                                                             \
	_Static_assert(offsetof(struct shim_mbuf, view) == offsetof(struct rte_mbuf, field),               \
		       "struct rte_mbuf has another layout than this binding knows: " #field);             \
	_Static_assert(sizeof(((struct shim_mbuf *)0)->view) == sizeof(((struct rte_mbuf *)0)->field) &&   \
			       sizeof(((struct rte_mbuf *)0)->field) == sizeof(real),                      \
		       "a field of struct rte_mbuf has another width than this binding knows: " #field)

SAME(buf_addr, buf_addr, void *);
SAME(data_off, data_off, uint16_t);
SAME(refcnt, refcnt, uint16_t);
SAME(nb_segs, nb_segs, uint16_t);
SAME(port, port, uint16_t);
SAME(ol_flags, ol_flags, uint64_t);
SAME(packet_type, packet_type, uint32_t);
SAME(pkt_len, pkt_len, uint32_t);
SAME(data_len, data_len, uint16_t);
SAME(vlan_tci, vlan_tci, uint16_t);
SAME(rss_hash, hash.rss, uint32_t);
SAME(buf_len, buf_len, uint16_t);
SAME(pool, pool, void *);
SAME(tx_offload, tx_offload, uint64_t);
_Static_assert(sizeof(struct rte_eth_xstat) == 16, "struct rte_eth_xstat is not {id, value}");
_Static_assert(sizeof(struct rte_eth_xstat_name) == RTE_ETH_XSTATS_NAME_SIZE, "struct rte_eth_xstat_name is not a name");
_Static_assert(sizeof(struct rte_ether_addr) == 6, "struct rte_ether_addr is not six bytes");
_Static_assert(offsetof(struct rte_eth_rss_reta_entry64, reta) == 8, "struct rte_eth_rss_reta_entry64 is not {mask, reta}");

/* ---- EAL */

int shim_errno(void) { return rte_errno; }

int shim_has_lcore(void) { return rte_lcore_id() != LCORE_ID_ANY; }

unsigned int shim_lcore_id(void) { return rte_lcore_id(); }

static shim_log_sink log_sink;
static FILE *log_stream;

static ssize_t log_write(void *cookie, const char *text, size_t bytes)
{
	(void)cookie;
	log_sink(text, bytes);
	return (ssize_t)bytes;
}

int shim_log_open(shim_log_sink sink)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", functions);

	if (stream == NULL)
		return errno;
	/* One write for each line: the level of the current message is then still that of the line. */
	setvbuf(stream, NULL, _IOLBF, 4096);
	log_sink = sink;
	log_stream = stream;
	if (rte_openlog_stream(stream) != 0) {
		fclose(stream);
		log_stream = NULL;
		return EINVAL;
	}
	return 0;
}

void shim_log_close(void)
{
	if (log_stream == NULL)
		return;
	rte_openlog_stream(NULL);
	fclose(log_stream);
	log_stream = NULL;
}

int shim_interrupt_register(int fd, void (*callback)(void *))
{
	/* In ordinary memory: what the thread looks at must outlive EAL's own. EAL copies it. */
	struct rte_intr_handle *handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);
	int error;

	if (handle == NULL)
		return -ENOMEM;
	error = rte_intr_fd_set(handle, fd);
	if (error == 0)
		error = rte_intr_type_set(handle, RTE_INTR_HANDLE_EXT);
	if (error == 0)
		error = rte_intr_callback_register(handle, callback, NULL);
	rte_intr_instance_free(handle);
	return error < 0 ? error : 0;
}

static void (*bursts_wait)(void);

void shim_interrupt_quiet(void (*wait)(void))
{
	bursts_wait = wait;
}

/* In place of EAL's, for drivers too: the program comes before its libraries when their symbols are looked up. A driver
 * calls this on EAL's interrupt thread when it has told bursts to keep away and before it frees what they use. */
int rte_intr_callback_unregister(const struct rte_intr_handle *handle, rte_intr_callback_fn callback, void *argument)
{
	static int (*eals)(const struct rte_intr_handle *, rte_intr_callback_fn, void *);
	int removed;

	if (eals == NULL)
		eals = dlsym(RTLD_NEXT, "rte_intr_callback_unregister");
	removed = eals(handle, callback, argument);
	if (bursts_wait != NULL && rte_thread_is_intr())
		bursts_wait();
	return removed;
}

/* ---- Ports */

int shim_ports_of(const char *device, uint16_t *ports, unsigned int max)
{
	struct rte_dev_iterator iterator;
	unsigned int found = 0;
	uint16_t port;
	int error = rte_eth_iterator_init(&iterator, device);

	if (error != 0)
		return error;
	/* Reads to the end even past `max`: only the end frees the iterator. */
	for (port = rte_eth_iterator_next(&iterator); port != RTE_MAX_ETHPORTS; port = rte_eth_iterator_next(&iterator)) {
		if (found < max)
			ports[found++] = port;
	}
	return (int)found;
}

unsigned int shim_ports(uint16_t *ports, unsigned int max)
{
	unsigned int found = 0;
	uint16_t port;

	RTE_ETH_FOREACH_DEV(port) {
		if (found < max)
			ports[found++] = port;
	}
	return found;
}

int shim_port_info(uint16_t port, struct shim_port_info *info)
{
	struct rte_eth_dev_info dev;
	uint16_t mtu = 0;
	int error = rte_eth_dev_info_get(port, &dev);

	if (error != 0)
		return error;
	error = rte_eth_dev_get_mtu(port, &mtu);
	if (error != 0)
		return error;
	memset(info, 0, sizeof(*info));
	snprintf(info->driver, sizeof(info->driver), "%s", dev.driver_name == NULL ? "" : dev.driver_name);
	info->rx_offloads = dev.rx_offload_capa;
	info->tx_offloads = dev.tx_offload_capa;
	info->rss_functions = dev.flow_type_rss_offloads;
	info->mtu_min = dev.min_mtu;
	info->mtu_max = dev.max_mtu;
	info->frame_bytes_max = dev.max_rx_pktlen;
	info->rx_queues_max = dev.max_rx_queues;
	info->tx_queues_max = dev.max_tx_queues;
	info->rss_key_bytes = dev.hash_key_size;
	info->reta_entries = dev.reta_size;
	info->numa_node = rte_eth_dev_socket_id(port);
	info->mtu = mtu;
	return 0;
}

int shim_port_configure(uint16_t port, const struct shim_port_setup *setup)
{
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = setup->mtu;
	conf.rxmode.offloads = setup->rx_offloads;
	conf.txmode.offloads = setup->tx_offloads;
	conf.intr_conf.rxq = setup->rx_interrupts != 0;
	if (setup->rss_functions != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = setup->rss_functions;
		/* The field is not const, the key is only read. */
		conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)setup->rss_key;
		conf.rx_adv_conf.rss_conf.rss_key_len = (uint8_t)setup->rss_key_bytes;
	}
	return rte_eth_dev_configure(port, setup->rx_queues, setup->tx_queues, &conf);
}

int shim_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int shim_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, uint64_t offloads, struct rte_mempool *pool)
{
	struct rte_eth_dev_info dev;
	int error = rte_eth_dev_info_get(port, &dev);

	if (error != 0)
		return error;
	dev.default_rxconf.offloads = offloads;
	return rte_eth_rx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), &dev.default_rxconf, pool);
}

int shim_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, uint64_t offloads)
{
	struct rte_eth_dev_info dev;
	int error = rte_eth_dev_info_get(port, &dev);

	if (error != 0)
		return error;
	dev.default_txconf.offloads = offloads;
	return rte_eth_tx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), &dev.default_txconf);
}

int shim_port_link(uint16_t port, struct shim_link *link)
{
	struct rte_eth_link now;
	int error;

	memset(&now, 0, sizeof(now));
	error = rte_eth_link_get_nowait(port, &now);
	if (error != 0)
		return error;
	link->speed_mbps = now.link_speed;
	link->full_duplex = now.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	link->up = now.link_status == RTE_ETH_LINK_UP;
	return 0;
}

int shim_port_stats(uint16_t port, struct shim_port_stats *stats)
{
	struct rte_eth_stats now;
	int error;

	memset(&now, 0, sizeof(now));
	error = rte_eth_stats_get(port, &now);
	if (error != 0)
		return error;
	stats->rx_frames = now.ipackets;
	stats->rx_bytes = now.ibytes;
	stats->rx_missed = now.imissed;
	stats->rx_errors = now.ierrors;
	stats->rx_no_mbuf = now.rx_nombuf;
	stats->tx_frames = now.opackets;
	stats->tx_bytes = now.obytes;
	stats->tx_errors = now.oerrors;
	return 0;
}

/* ---- Telemetry */

static void add_pool(struct rte_mempool *pool, void *answer)
{
	rte_tel_data_add_dict_int(answer, pool->name, (int)rte_mempool_in_use_count(pool));
}

static int mbufs_in_use(const char *command, const char *parameters, struct rte_tel_data *answer)
{
	(void)command;
	(void)parameters;
	rte_tel_data_start_dict(answer);
	rte_mempool_walk(add_pool, answer);
	return 0;
}

int shim_telemetry_open(void)
{
	return rte_telemetry_register_cmd("/unsocket/mbufs_in_use", mbufs_in_use,
					  "Returns the mbufs of each mempool that are not in it. Takes no parameters.");
}

/* ---- Mbufs */

struct rte_mempool *shim_mempool_create(const char *name, unsigned int mbufs, unsigned int cache, uint16_t room, int node,
					int packed)
{
	struct rte_pktmbuf_pool_private private = {.mbuf_data_room_size = room};
	struct rte_mempool *pool;
	int status;

	if (!packed)
		return rte_pktmbuf_pool_create(name, mbufs, cache, 0, room, node);
	pool = rte_mempool_create_empty(name, mbufs, sizeof(struct rte_mbuf) + room, cache, sizeof(private), node,
					RTE_MEMPOOL_F_NO_IOVA_CONTIG);
	if (pool == NULL)
		return NULL;
	status = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (status == 0) {
		rte_pktmbuf_pool_init(pool, &private);
		status = rte_mempool_populate_default(pool);
	}
	if (status < 0) {
		rte_mempool_free(pool);
		rte_errno = -status;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

int shim_mbuf_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void shim_mbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

int shim_mbuf_linearize(struct rte_mbuf *mbuf) { return rte_pktmbuf_linearize(mbuf); }

void shim_mbuf_copy_out(const struct rte_mbuf *mbuf, void *to)
{
	uint8_t *at = to;

	for (; mbuf != NULL; mbuf = mbuf->next) {
		memcpy(at, rte_pktmbuf_mtod(mbuf, const void *), mbuf->data_len);
		at += mbuf->data_len;
	}
}

/* ---- Bursts */

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

/* Headers that a driver will read or write for an offload must lie in the first segment, whatever lengths the
 * frame claims: drivers do not check. */
static inline int offload_allowed(struct rte_mbuf *mbuf, uint64_t wanted, const struct shim_tx_rules *rules)
{
	uint32_t l3_end = (uint32_t)mbuf->l2_len + mbuf->l3_len;
	uint32_t l3_min = wanted & RTE_MBUF_F_TX_IPV6 ? 40 : 20;
	uint32_t l4_min = 0;

	if ((wanted & ~(rules->offload_flags | RTE_MBUF_F_TX_L4_MASK)) != 0)
		return 0;
	if ((wanted & ~RTE_MBUF_F_TX_VLAN) == 0)
		return 1;
	switch (wanted & RTE_MBUF_F_TX_L4_MASK) {
	case RTE_MBUF_F_TX_L4_NO_CKSUM:
		break;
	case RTE_MBUF_F_TX_TCP_CKSUM:
		if (!rules->tcp_checksum)
			return 0;
		l4_min = sizeof(struct rte_tcp_hdr);
		break;
	case RTE_MBUF_F_TX_UDP_CKSUM:
		if (!rules->udp_checksum)
			return 0;
		l4_min = sizeof(struct rte_udp_hdr);
		break;
	default:
		return 0;
	}
	if ((wanted & RTE_MBUF_F_TX_TCP_SEG) != 0 && (mbuf->l4_len < l4_min || mbuf->tso_segsz == 0))
		return 0;
	/* l4_len may be left out where there is no segmentation; the checksum's field must be there all the same. */
	if (mbuf->l2_len < RTE_ETHER_HDR_LEN || mbuf->l3_len < l3_min || l3_end + RTE_MAX(l4_min, (uint32_t)mbuf->l4_len) > mbuf->data_len)
		return 0;
	/* Drivers that need the pseudo-header checksum do not all write it themselves. */
	return rte_net_intel_cksum_flags_prepare(mbuf, wanted) == 0;
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, const struct shim_tx_rules *rules, struct rte_mbuf **mbufs, uint16_t count,
		       int *refused)
{
	uint64_t any = 0;
	uint16_t good;
	uint16_t sent;

	for (good = 0; good < count; good++) {
		struct rte_mbuf *mbuf = mbufs[good];
		uint64_t wanted = mbuf->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK;
		uint32_t bytes_max = wanted & RTE_MBUF_F_TX_TCP_SEG ? UINT16_MAX : rules->frame_bytes_max;

		if (unlikely(mbuf->data_len < RTE_ETHER_HDR_LEN || mbuf->pkt_len > bytes_max))
			break;
		if (unlikely(mbuf->nb_segs != 1 && !rules->multi_segment))
			break;
		if (wanted != 0 && unlikely(!offload_allowed(mbuf, wanted, rules)))
			break;
		any |= wanted;
	}
	*refused = good < count;
	if (any != 0) {
		uint16_t prepared = rte_eth_tx_prepare(port, queue, mbufs, good);

		if (unlikely(prepared < good)) {
			good = prepared;
			*refused = 1;
		}
	}
	sent = rte_eth_tx_burst(port, queue, mbufs, good);
	if (sent < good)
		*refused = 0;
	return sent;
}
