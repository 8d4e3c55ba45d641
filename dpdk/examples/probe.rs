//! Shows what DPDK's drivers say of devices: `cargo run -p unsocket-dpdk --example probe -- [--no-huge] DEVARGS...`

use dpdk::{Eal, EalArgs, Memory, Port};

fn main() -> dpdk::Result<()> {
    tracing_subscriber::fmt().with_env_filter("dpdk=warn").init();
    let mut args = EalArgs::new();
    for argument in std::env::args().skip(1) {
        args = match argument.as_str() {
            "--no-huge" => args.memory(Memory::Ordinary { mib: 64 }),
            devargs => args.device(devargs.parse()?),
        };
    }
    let eal = Eal::init(&args)?;
    println!("{}", Eal::version());
    for id in eal.ports() {
        let port = Port::open(&eal, id)?;
        let can = port.capabilities();
        println!("port {id}: {} ({})", port.name(), can.driver);
        println!("  queues    {} rx, {} tx", can.rx_queues_max, can.tx_queues_max);
        println!("  mtu       {}..={}", can.mtu_min, can.mtu_max);
        println!("  offloads  {}", can.offloads);
        println!(
            "  rss       {}; key {} B, table {}",
            can.rss_functions, can.rss_key_bytes, can.reta_entries
        );
        println!("  numa      {}", can.numa_node.map_or("any node".into(), |node| format!("node {node}")));
    }
    Ok(())
}
