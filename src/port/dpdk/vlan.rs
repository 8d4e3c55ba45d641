//! One VLAN of a port (IEEE 802.1Q): its tag comes off on receive and goes on on transmit.

use ::dpdk::{Mbuf, TxOffload};

/// The tag protocol identifier, where an untagged frame has its EtherType.
const TPID: [u8; 2] = [0x81, 0x00];
/// TPID and tag.
const TAG_BYTES: usize = 4;
/// Both MAC addresses.
const ADDRESSES_BYTES: usize = 12;
/// The bits of a tag that name the VLAN; the others are its priority and the drop eligible indicator.
const ID_BITS: u16 = 0x0fff;

/// The VLAN that a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vlan {
    /// 1..=4094.
    id: u16,
    /// The device inserts the tag.
    insert_offload: bool,
}

impl Vlan {
    pub(super) fn new(id: u16, insert_offload: bool) -> Self {
        Vlan { id, insert_offload }
    }

    /// Takes the tag out of a received frame, unless the device did; `false` when the frame is not of this VLAN.
    pub(super) fn untag(&self, frame: &mut Mbuf) -> bool {
        if let Some(tag) = frame.vlan_stripped() {
            return tag & ID_BITS == self.id;
        }
        match tag_of(frame.data()) {
            Some(tag) if tag & ID_BITS == self.id => {
                frame.data_mut().copy_within(..ADDRESSES_BYTES, TAG_BYTES);
                frame.trim_front(TAG_BYTES as u16)
            }
            _ => false,
        }
    }

    /// Puts the tag into a frame that is to be sent, or has the device do it. A frame that the device did not take the
    /// first time has its tag already.
    pub(super) fn tag(&self, frame: &mut Mbuf, offload: &mut TxOffload) {
        if self.insert_offload {
            offload.vlan = Some(self.id);
        } else if tag_of(frame.data()).is_some() || frame.push_front(TAG_BYTES as u16) && self.write(frame) {
            offload.l2_bytes += TAG_BYTES as u8;
        }
    }

    /// Fills the room in front of a frame with its addresses and the tag.
    fn write(&self, frame: &mut Mbuf) -> bool {
        let data = frame.data_mut();
        data.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES_BYTES, 0);
        data[ADDRESSES_BYTES..ADDRESSES_BYTES + 2].copy_from_slice(&TPID);
        data[ADDRESSES_BYTES + 2..ADDRESSES_BYTES + 4].copy_from_slice(&self.id.to_be_bytes());
        true
    }
}

/// The tag of a frame that has one.
fn tag_of(frame: &[u8]) -> Option<u16> {
    let tag: &[u8; TAG_BYTES] = frame.get(ADDRESSES_BYTES..)?.first_chunk()?;
    // A frame that ends with its tag has no EtherType.
    (tag[..2] == TPID && frame.len() >= ADDRESSES_BYTES + TAG_BYTES + 2)
        .then(|| u16::from_be_bytes([tag[2], tag[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_where_the_ethertype_would() {
        let addresses = [7; ADDRESSES_BYTES];
        let tagged = [&addresses[..], &TPID, &[0xa0, 5], &[0x08, 0x00], &[1; 46]].concat();
        assert_eq!(tag_of(&tagged), Some(0xa005));
        let plain = [&addresses[..], &[0x08, 0x00], &[1; 46]].concat();
        assert_eq!(tag_of(&plain), None);
        for short in 0..ADDRESSES_BYTES + TAG_BYTES + 2 {
            assert_eq!(tag_of(&tagged[..short]), None, "{short} bytes");
        }
    }
}
