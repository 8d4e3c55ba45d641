//! What ports do to frames on their own: checksums, segmentation, VLAN tags. Typed, and always by capability.

use crate::sys;
use std::fmt;

/// What a port found out about a received packet's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Not looked at: software must verify.
    Unknown,
    /// Verified.
    Good,
    /// Verified and wrong.
    Bad,
    /// Not filled in, but the data is sound: it never was on a wire (virtual machines, shared memory).
    NotNeeded,
}

impl RxChecksum {
    #[inline]
    pub(crate) fn of_ip(flags: u64) -> Self {
        match flags & sys::SHIM_RX_IP_CKSUM_MASK {
            sys::SHIM_RX_IP_CKSUM_GOOD => Self::Good,
            sys::SHIM_RX_IP_CKSUM_BAD => Self::Bad,
            sys::SHIM_RX_IP_CKSUM_NONE => Self::NotNeeded,
            _ => Self::Unknown,
        }
    }

    #[inline]
    pub(crate) fn of_l4(flags: u64) -> Self {
        match flags & sys::SHIM_RX_L4_CKSUM_MASK {
            sys::SHIM_RX_L4_CKSUM_GOOD => Self::Good,
            sys::SHIM_RX_L4_CKSUM_BAD => Self::Bad,
            sys::SHIM_RX_L4_CKSUM_NONE => Self::NotNeeded,
            _ => Self::Unknown,
        }
    }
}

/// The IP version of a frame that asks for an offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// Whose checksum the port is to fill in above IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L4Checksum {
    /// None.
    #[default]
    None,
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

/// What a port is to do to one frame that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// The IP version; matters when any of the below is asked for.
    pub ip: IpVersion,
    /// Fill in the IPv4 header checksum.
    pub ipv4_checksum: bool,
    /// Fill in the checksum above IP. The pseudo-header's part is added on the way.
    pub l4_checksum: L4Checksum,
    /// Cut a large TCP segment into segments of so many payload bytes.
    pub tso_segment_bytes: Option<u16>,
    /// Insert a VLAN tag (TCI).
    pub vlan: Option<u16>,
    /// Bytes of the Ethernet header, 0..=127.
    pub l2_bytes: u8,
    /// Bytes of the IP header with its options, 0..=511.
    pub l3_bytes: u16,
    /// Bytes of the TCP or UDP header; needed for segmentation only.
    pub l4_bytes: u8,
}

impl TxOffload {
    #[inline]
    pub(crate) fn flags(&self) -> u64 {
        let mut flags = match self.l4_checksum {
            L4Checksum::None => 0,
            L4Checksum::Tcp => sys::SHIM_TX_TCP_CKSUM,
            L4Checksum::Udp => sys::SHIM_TX_UDP_CKSUM,
        };
        if self.ipv4_checksum {
            flags |= sys::SHIM_TX_IP_CKSUM;
        }
        if self.tso_segment_bytes.is_some() {
            flags |= sys::SHIM_TX_TCP_SEG | sys::SHIM_TX_TCP_CKSUM;
        }
        if flags != 0 {
            flags |= match self.ip {
                IpVersion::V4 => sys::SHIM_TX_IPV4,
                IpVersion::V6 => sys::SHIM_TX_IPV6,
            };
        }
        if self.vlan.is_some() {
            flags |= sys::SHIM_TX_VLAN;
        }
        flags
    }

    /// The mbuf's tx_offload word. A length that its bits cannot hold becomes the largest they can, which no frame has
    /// room for, so that the queue refuses it.
    #[inline]
    pub(crate) fn lengths(&self) -> u64 {
        let field = |value: u64, bits: u32, shift: u32| value.min((1 << bits) - 1) << shift;
        field(self.l2_bytes.into(), sys::SHIM_L2_LEN_BITS, sys::SHIM_L2_LEN_SHIFT)
            | field(self.l3_bytes.into(), sys::SHIM_L3_LEN_BITS, sys::SHIM_L3_LEN_SHIFT)
            | field(self.l4_bytes.into(), sys::SHIM_L4_LEN_BITS, sys::SHIM_L4_LEN_SHIFT)
            | u64::from(self.tso_segment_bytes.unwrap_or(0)) << sys::SHIM_TSO_SEGSZ_SHIFT
    }
}

/// A set of offloads: what a port can do, what is wanted of it, or what is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// RX: IPv4 header checksums are verified.
    pub rx_ipv4_checksum: bool,
    /// RX: TCP checksums are verified.
    pub rx_tcp_checksum: bool,
    /// RX: UDP checksums are verified.
    pub rx_udp_checksum: bool,
    /// RX: VLAN tags are taken out of the frame.
    pub rx_vlan_strip: bool,
    /// RX: of tagged frames only those of VLANs that [`Port::receive_vlan`](crate::Port::receive_vlan) named come.
    pub rx_vlan_filter: bool,
    /// RX: frames longer than a buffer come as chains of segments.
    pub rx_scatter: bool,
    /// RX: the RSS hash comes with the frame.
    pub rx_rss_hash: bool,
    /// TX: IPv4 header checksums are filled in.
    pub tx_ipv4_checksum: bool,
    /// TX: TCP checksums are filled in.
    pub tx_tcp_checksum: bool,
    /// TX: UDP checksums are filled in.
    pub tx_udp_checksum: bool,
    /// TX: large TCP segments are cut up.
    pub tx_tso: bool,
    /// TX: VLAN tags are inserted.
    pub tx_vlan_insert: bool,
    /// TX: chains of segments are sent as one frame.
    pub tx_multi_segment: bool,
}

/// One row per offload: its name, its field, and DPDK's bit.
type Row = (&'static str, fn(&mut Offloads) -> &mut bool, u64);

const RX: [Row; 7] = [
    ("rx-ipv4-checksum", |o| &mut o.rx_ipv4_checksum, sys::SHIM_CAPA_RX_IPV4_CKSUM),
    ("rx-tcp-checksum", |o| &mut o.rx_tcp_checksum, sys::SHIM_CAPA_RX_TCP_CKSUM),
    ("rx-udp-checksum", |o| &mut o.rx_udp_checksum, sys::SHIM_CAPA_RX_UDP_CKSUM),
    ("rx-vlan-strip", |o| &mut o.rx_vlan_strip, sys::SHIM_CAPA_RX_VLAN_STRIP),
    ("rx-vlan-filter", |o| &mut o.rx_vlan_filter, sys::SHIM_CAPA_RX_VLAN_FILTER),
    ("rx-scatter", |o| &mut o.rx_scatter, sys::SHIM_CAPA_RX_SCATTER),
    ("rx-rss-hash", |o| &mut o.rx_rss_hash, sys::SHIM_CAPA_RX_RSS_HASH),
];

const TX: [Row; 6] = [
    ("tx-ipv4-checksum", |o| &mut o.tx_ipv4_checksum, sys::SHIM_CAPA_TX_IPV4_CKSUM),
    ("tx-tcp-checksum", |o| &mut o.tx_tcp_checksum, sys::SHIM_CAPA_TX_TCP_CKSUM),
    ("tx-udp-checksum", |o| &mut o.tx_udp_checksum, sys::SHIM_CAPA_TX_UDP_CKSUM),
    ("tx-tso", |o| &mut o.tx_tso, sys::SHIM_CAPA_TX_TCP_TSO),
    ("tx-vlan-insert", |o| &mut o.tx_vlan_insert, sys::SHIM_CAPA_TX_VLAN_INSERT),
    ("tx-multi-segment", |o| &mut o.tx_multi_segment, sys::SHIM_CAPA_TX_MULTI_SEGS),
];

impl Offloads {
    /// All of them.
    pub fn all() -> Self {
        Self::from_bits(u64::MAX, u64::MAX)
    }

    /// Those that both have.
    pub fn and(self, other: Self) -> Self {
        Self::from_bits(self.rx_bits() & other.rx_bits(), self.tx_bits() & other.tx_bits())
    }

    /// Those that `self` has and `other` has not.
    pub fn without(self, other: Self) -> Self {
        Self::from_bits(self.rx_bits() & !other.rx_bits(), self.tx_bits() & !other.tx_bits())
    }

    /// The names of those that are set.
    pub fn names(mut self) -> Vec<&'static str> {
        RX.iter().chain(&TX).filter(|(_, field, _)| *field(&mut self)).map(|(name, ..)| *name).collect()
    }

    pub(crate) fn from_bits(rx: u64, tx: u64) -> Self {
        let mut offloads = Self::default();
        for (rows, bits) in [(&RX[..], rx), (&TX[..], tx)] {
            for (_, field, bit) in rows {
                *field(&mut offloads) = bits & bit != 0;
            }
        }
        offloads
    }

    pub(crate) fn rx_bits(mut self) -> u64 {
        RX.iter().filter(|(_, field, _)| *field(&mut self)).map(|(.., bit)| bit).sum()
    }

    pub(crate) fn tx_bits(mut self) -> u64 {
        TX.iter().filter(|(_, field, _)| *field(&mut self)).map(|(.., bit)| bit).sum()
    }

    /// The flags that frames on a port set up so may carry. Those of TCP and UDP checksums are values of one field,
    /// not bits, and are allowed one by one.
    pub(crate) fn tx_flags(&self) -> u64 {
        let ip = sys::SHIM_TX_IPV4 | sys::SHIM_TX_IPV6;
        let rows = [
            (self.tx_ipv4_checksum, sys::SHIM_TX_IP_CKSUM | ip),
            (self.tx_tcp_checksum || self.tx_udp_checksum, ip),
            (self.tx_tso, sys::SHIM_TX_TCP_SEG | ip),
            (self.tx_vlan_insert, sys::SHIM_TX_VLAN),
        ];
        rows.iter().filter(|(on, _)| *on).fold(0, |flags, (_, more)| flags | more)
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names().as_slice() {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_offloads() {
        let all = Offloads::all();
        assert_eq!(all.names().len(), RX.len() + TX.len());
        let tcp = Offloads { tx_tcp_checksum: true, rx_tcp_checksum: true, ..Offloads::default() };
        assert_eq!(all.and(tcp), tcp);
        assert_eq!(tcp.without(all), Offloads::default());
        assert_eq!(Offloads::from_bits(tcp.rx_bits(), tcp.tx_bits()), tcp);
        assert_eq!(tcp.to_string(), "rx-tcp-checksum tx-tcp-checksum");
        assert_eq!(Offloads::default().to_string(), "none");
    }

    #[test]
    fn flags_name_the_ip_version_only_when_it_matters() {
        assert_eq!(TxOffload::default().flags(), 0);
        let vlan = TxOffload { vlan: Some(7), ..TxOffload::default() };
        assert_eq!(vlan.flags(), sys::SHIM_TX_VLAN);
        let tcp = TxOffload { ip: IpVersion::V6, l4_checksum: L4Checksum::Tcp, ..TxOffload::default() };
        assert_eq!(tcp.flags(), sys::SHIM_TX_TCP_CKSUM | sys::SHIM_TX_IPV6);
        let tso = TxOffload { tso_segment_bytes: Some(1460), ..TxOffload::default() };
        assert_eq!(tso.flags(), sys::SHIM_TX_TCP_SEG | sys::SHIM_TX_TCP_CKSUM | sys::SHIM_TX_IPV4);
    }

    #[test]
    fn lengths_never_spill_into_their_neighbours() {
        let wide = TxOffload { l2_bytes: 255, l3_bytes: u16::MAX, l4_bytes: 255, ..TxOffload::default() };
        assert_eq!(wide.lengths(), 127 | 511 << 7 | 255 << 16);
        let tcp =
            TxOffload { l2_bytes: 14, l3_bytes: 20, l4_bytes: 32, tso_segment_bytes: Some(1448), ..wide };
        assert_eq!(tcp.lengths(), 14 | 20 << 7 | 32 << 16 | 1448 << 24);
    }

    #[test]
    fn all_four_checksum_verdicts() {
        assert_eq!(RxChecksum::of_ip(0), RxChecksum::Unknown);
        assert_eq!(RxChecksum::of_ip(sys::SHIM_RX_IP_CKSUM_GOOD), RxChecksum::Good);
        assert_eq!(RxChecksum::of_ip(sys::SHIM_RX_IP_CKSUM_BAD), RxChecksum::Bad);
        assert_eq!(RxChecksum::of_ip(sys::SHIM_RX_IP_CKSUM_NONE), RxChecksum::NotNeeded);
        assert_eq!(RxChecksum::of_l4(sys::SHIM_RX_L4_CKSUM_GOOD), RxChecksum::Good);
        assert_eq!(RxChecksum::of_l4(sys::SHIM_RX_L4_CKSUM_BAD), RxChecksum::Bad);
        assert_eq!(RxChecksum::of_l4(sys::SHIM_RX_L4_CKSUM_NONE), RxChecksum::NotNeeded);
        assert_eq!(RxChecksum::of_l4(sys::SHIM_RX_IP_CKSUM_GOOD), RxChecksum::Unknown);
    }
}
