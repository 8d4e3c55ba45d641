/* What Rust sees of DPDK beyond its exported functions: its static inline functions, one call per burst; its
 * bit-fields and unions, flattened; its 64-bit macros, which bindgen cannot evaluate. */
#ifndef UNSOCKET_DPDK_SHIM_H
#define UNSOCKET_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* The fields of struct rte_mbuf that Rust reads and writes in place. shim.c holds it to the real one. */
struct shim_mbuf {
	void *buf_addr;
	uint64_t word_1; /* buf_iova or next */
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t rss_hash;
	uint32_t hash_hi;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	void *pool;
	uint64_t word_8; /* next or dynfield2 */
	uint64_t tx_offload;
};

/* Bit positions within tx_offload. */
static const uint32_t SHIM_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS;
static const uint32_t SHIM_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS;
static const uint32_t SHIM_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS;
static const uint32_t SHIM_TSO_SEGSZ_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS;
static const uint32_t SHIM_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS;
static const uint32_t SHIM_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS;
static const uint32_t SHIM_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS;

static const uint64_t SHIM_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t SHIM_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t SHIM_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t SHIM_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t SHIM_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t SHIM_RX_IP_CKSUM_NONE = RTE_MBUF_F_RX_IP_CKSUM_NONE;
static const uint64_t SHIM_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t SHIM_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t SHIM_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t SHIM_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t SHIM_FOREIGN_DATA = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;
static const uint64_t SHIM_TX_OFFLOAD_MASK = RTE_MBUF_F_TX_OFFLOAD_MASK;
static const uint64_t SHIM_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t SHIM_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t SHIM_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t SHIM_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t SHIM_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t SHIM_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t SHIM_TX_VLAN = RTE_MBUF_F_TX_VLAN;

static const uint64_t SHIM_CAPA_RX_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_CAPA_RX_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_CAPA_RX_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_CAPA_RX_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t SHIM_CAPA_RX_VLAN_FILTER = RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
static const uint64_t SHIM_CAPA_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_CAPA_RX_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_CAPA_TX_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_CAPA_TX_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_CAPA_TX_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_CAPA_TX_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t SHIM_CAPA_TX_VLAN_INSERT = RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
static const uint64_t SHIM_CAPA_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

static const uint32_t SHIM_SPEED_NONE = RTE_ETH_SPEED_NUM_NONE;
static const uint32_t SHIM_SPEED_UNKNOWN = RTE_ETH_SPEED_NUM_UNKNOWN;

static const uint64_t SHIM_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t SHIM_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t SHIM_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t SHIM_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t SHIM_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t SHIM_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;

static const uint32_t SHIM_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE;
static const uint32_t SHIM_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t SHIM_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t SHIM_ETHER_HEADER_BYTES = RTE_ETHER_HDR_LEN;
static const uint32_t SHIM_ETHER_MTU = RTE_ETHER_MTU;
static const uint32_t SHIM_LCORES_MAX = RTE_MAX_LCORE;
static const uint32_t SHIM_PORTS_MAX = RTE_MAX_ETHPORTS;
static const uint32_t SHIM_NAME_BYTES = RTE_ETH_NAME_MAX_LEN;

/* What a driver says of a port. */
struct shim_port_info {
	char driver[RTE_ETH_NAME_MAX_LEN];
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	uint64_t rss_functions;
	uint32_t mtu_min;
	uint32_t mtu_max;
	uint32_t frame_bytes_max;
	uint32_t rx_queues_max;
	uint32_t tx_queues_max;
	uint32_t rss_key_bytes;
	uint32_t reta_entries;
	int32_t numa_node; /* negative: none */
	uint32_t mtu;      /* in use */
};

/* What a port is set up with; each value within the port's own limits. */
struct shim_port_setup {
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	uint64_t rss_functions; /* 0: no RSS */
	const uint8_t *rss_key; /* NULL: the driver's own */
	uint32_t rss_key_bytes;
	uint32_t mtu;
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint8_t rx_interrupts; /* each RX queue gets an interrupt, off at first */
};

struct shim_link {
	uint32_t speed_mbps;
	uint8_t full_duplex;
	uint8_t up;
};

struct shim_port_stats {
	uint64_t rx_frames;
	uint64_t rx_bytes;
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t rx_no_mbuf;
	uint64_t tx_frames;
	uint64_t tx_bytes;
	uint64_t tx_errors;
};

/* What a TX queue lets through. */
struct shim_tx_rules {
	uint64_t offload_flags;   /* RTE_MBUF_F_TX_* that the port was set up for, those of L4 checksums left out */
	uint32_t frame_bytes_max; /* without segmentation offload */
	uint8_t tcp_checksum;
	uint8_t udp_checksum;
	uint8_t multi_segment; /* chains may be sent */
};

int shim_errno(void);
/* True for a thread that EAL knows. */
int shim_has_lcore(void);
unsigned int shim_lcore_id(void);

typedef void (*shim_log_sink)(const char *text, size_t bytes);
/* Gives EAL's log to `sink`; 0, or an errno. */
int shim_log_open(shim_log_sink sink);
void shim_log_close(void);

/* Has EAL's interrupt thread call `callback` whenever `fd` is readable, as long as EAL runs; 0, or a negative errno. */
int shim_interrupt_register(int fd, void (*callback)(void *));
/* Has drivers that take memory back on that thread call `wait` between telling bursts to keep away and doing so. */
void shim_interrupt_quiet(void (*wait)(void));

/* The ports of the device of that name; returns how many, at most `max`, or a negative errno. */
int shim_ports_of(const char *device, uint16_t *ports, unsigned int max);
/* The ids of all ports, at most `max`; returns how many. */
unsigned int shim_ports(uint16_t *ports, unsigned int max);

int shim_port_info(uint16_t port, struct shim_port_info *info);
int shim_port_configure(uint16_t port, const struct shim_port_setup *setup);
/* Rounds both to what the driver takes. */
int shim_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);
int shim_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, uint64_t offloads, struct rte_mempool *pool);
int shim_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, uint64_t offloads);
int shim_port_link(uint16_t port, struct shim_link *link);
int shim_port_stats(uint16_t port, struct shim_port_stats *stats);

/* Adds /unsocket/mbufs_in_use to what EAL's telemetry socket answers, where there is one; 0 on success. */
int shim_telemetry_open(void);

/* A mempool of mbufs; NULL with rte_errno. `packed` ones lie side by side in one piece of memory, across the ends of
 * pages, so that a device must reach them by virtual addresses. */
struct rte_mempool *shim_mempool_create(const char *name, unsigned int mbufs, unsigned int cache, uint16_t room, int node,
					int packed);
/* `count` mbufs or none; 0 on success. */
int shim_mbuf_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void shim_mbuf_free(struct rte_mbuf *mbuf);
/* Moves a chain into its first segment; 0, or -1 where there is no room. */
int shim_mbuf_linearize(struct rte_mbuf *mbuf);
/* Copies a chain's data to `to`, which has room for its pkt_len. */
void shim_mbuf_copy_out(const struct rte_mbuf *mbuf, void *to);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
/* Sends from the front; returns how many the driver took. Stops at a frame that breaks the rules or that the
 * driver refuses, and sets *refused then: that frame is mbufs[returned]. */
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, const struct shim_tx_rules *rules, struct rte_mbuf **mbufs, uint16_t count,
		       int *refused);

#endif
