/* The forwarding loop that examples/shim_cost.rs compares the binding with. */
#include "shim.h"

uint64_t shim_bench_forward(uint16_t rx_port, uint16_t rx_queue, uint16_t tx_port, uint16_t tx_queue, uint16_t burst, uint64_t rounds);

uint64_t shim_bench_forward(uint16_t rx_port, uint16_t rx_queue, uint16_t tx_port, uint16_t tx_queue, uint16_t burst, uint64_t rounds)
{
	struct rte_mbuf *mbufs[64];
	uint64_t frames = 0;

	while (rounds-- > 0) {
		uint16_t received = rte_eth_rx_burst(rx_port, rx_queue, mbufs, burst);
		uint16_t sent = rte_eth_tx_burst(tx_port, tx_queue, mbufs, received);

		if (sent < received)
			rte_pktmbuf_free_bulk(mbufs + sent, received - sent);
		frames += received;
	}
	return frames;
}
