//! Mbufs: packet buffers that are owned like boxes.

use crate::mempool::Mempool;
use crate::offload::{RxChecksum, TxOffload};
use crate::{ledger, sys};
use std::collections::VecDeque;
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;

/// Mbufs that one call moves at most.
pub const BURST_MAX: usize = 64;

/// One frame in DPDK's memory: a segment, or a chain of segments as some ports receive it.
///
/// Owned: it is never cloned nor shared, and goes back to its mempool when dropped. A port that is given it frees it.
#[repr(transparent)]
pub struct Mbuf {
    raw: NonNull<sys::rte_mbuf>,
}

// SAFETY: an mbuf is owned by one handle at a time, and freeing to its mempool is sound from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: a shared handle only reads.
unsafe impl Sync for Mbuf {}

/// The data does not fit into one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes in {segments} segments does not fit into one segment of {room} bytes")]
pub struct TooLong {
    /// The frame's length in bytes.
    pub bytes: usize,
    /// Its segments.
    pub segments: usize,
    /// Room in the segment it should go to.
    pub room: usize,
}

impl Mbuf {
    /// # Safety
    /// `raw` must be a valid mbuf with a reference count of one that nobody else uses, and must be entered in the
    /// ledger.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut sys::rte_mbuf) -> Self {
        // SAFETY: valid, so not NULL.
        Self { raw: unsafe { NonNull::new_unchecked(raw) } }
    }

    /// Length in bytes, all segments together.
    #[inline]
    pub fn len(&self) -> usize {
        self.view().pkt_len as usize
    }

    /// True when it holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when [`Mbuf::data`] is the whole frame.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.view().nb_segs == 1
    }

    /// The number of segments.
    pub fn segments(&self) -> usize {
        usize::from(self.view().nb_segs)
    }

    /// The data of the first segment: the whole frame when [`Mbuf::is_contiguous`].
    #[inline]
    pub fn data(&self) -> &[u8] {
        let (data, bytes) = self.first_segment();
        // SAFETY: the segment's data lies within its buffer, which was zeroed or written when its memory was mapped, and which
        // only this handle may change.
        unsafe { std::slice::from_raw_parts(data, bytes) }
    }

    /// The data of the first segment, writable.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (data, bytes) = self.first_segment();
        // SAFETY: as in `data`, and the exclusive borrow of the only handle is held.
        unsafe { std::slice::from_raw_parts_mut(data, bytes) }
    }

    /// The longest that a frame of one segment can be here, in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        let view = self.view();
        usize::from(view.buf_len.saturating_sub(view.data_off))
    }

    /// Sets the length in bytes. What a grown part holds is what its memory held before.
    ///
    /// # Panics
    /// When `len` is over [`Mbuf::capacity`], or the frame has several segments.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a frame of {len} bytes in an mbuf of {}", self.capacity());
        assert!(self.is_contiguous(), "the length of a chain of segments is the sum of theirs");
        let view = self.view_mut();
        // The capacity is a u16.
        view.data_len = len as u16;
        view.pkt_len = len as u32;
    }

    /// Takes bytes off the front; `false` when the first segment has fewer.
    #[inline]
    pub fn trim_front(&mut self, bytes: u16) -> bool {
        let view = self.view_mut();
        let fits = bytes <= view.data_len;
        if fits {
            // The offset stays within the buffer, as the data does.
            view.data_off += bytes;
            view.data_len -= bytes;
            view.pkt_len -= u32::from(bytes);
        }
        fits
    }

    /// Puts room in front; what it holds is what its memory held before. `false` when there is none, or the frame would be
    /// longer than an mbuf can say.
    #[inline]
    pub fn push_front(&mut self, bytes: u16) -> bool {
        let view = self.view_mut();
        let fits = bytes <= view.data_off && view.data_len.checked_add(bytes).is_some();
        if fits {
            view.data_off -= bytes;
            view.data_len += bytes;
            view.pkt_len += u32::from(bytes);
        }
        fits
    }

    /// Makes one segment of a chain: in place where the first has room, else in a fresh mbuf of `spare`.
    ///
    /// # Errors
    /// [`TooLong`] when neither has room, or `spare` is used up (`room` is 0 then): the frame stays as it was.
    pub fn linearize(&mut self, spare: &Mempool) -> Result<(), TooLong> {
        // SAFETY: a valid mbuf that only this handle uses; on failure it is unchanged.
        if self.is_contiguous() || unsafe { sys::shim_mbuf_linearize(self.raw.as_ptr()) } == 0 {
            return Ok(());
        }
        let bytes = self.len();
        let mut whole = spare.alloc().ok_or(TooLong { bytes, segments: self.segments(), room: 0 })?;
        if bytes > whole.capacity() {
            return Err(TooLong { bytes, segments: self.segments(), room: whole.capacity() });
        }
        whole.set_len(bytes);
        // SAFETY: `whole` has `bytes` bytes, which is the chain's pkt_len.
        unsafe { sys::shim_mbuf_copy_out(self.raw.as_ptr(), whole.data_mut().as_mut_ptr().cast()) };
        let from = *self.view();
        let to = whole.view_mut();
        to.port = from.port;
        to.ol_flags |= from.ol_flags & !sys::SHIM_FOREIGN_DATA;
        to.packet_type = from.packet_type;
        to.vlan_tci = from.vlan_tci;
        to.rss_hash = from.rss_hash;
        to.tx_offload = from.tx_offload;
        *self = whole;
        Ok(())
    }

    /// What the port found of the received packet's IPv4 header checksum.
    #[inline]
    pub fn rx_ip_checksum(&self) -> RxChecksum {
        RxChecksum::of_ip(self.view().ol_flags)
    }

    /// What the port found of the received packet's TCP or UDP checksum.
    #[inline]
    pub fn rx_l4_checksum(&self) -> RxChecksum {
        RxChecksum::of_l4(self.view().ol_flags)
    }

    /// The hash by which the port chose the RX queue, when it tells.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let view = self.view();
        (view.ol_flags & sys::SHIM_RX_RSS_HASH != 0).then_some(view.rss_hash)
    }

    /// The VLAN tag (TCI) that the port took out of the received frame.
    #[inline]
    pub fn vlan_stripped(&self) -> Option<u16> {
        let view = self.view();
        (view.ol_flags & sys::SHIM_RX_VLAN_STRIPPED != 0).then_some(view.vlan_tci)
    }

    /// Asks the port to finish the frame when it is sent. A queue refuses frames that ask for what its port was
    /// not set up for, and frames shorter than the headers that are named here.
    #[inline]
    pub fn set_tx_offload(&mut self, offload: &TxOffload) {
        let view = self.view_mut();
        view.ol_flags = view.ol_flags & !sys::SHIM_TX_OFFLOAD_MASK | offload.flags();
        view.tx_offload = offload.lengths();
        if let Some(tag) = offload.vlan {
            view.vlan_tci = tag;
        }
    }

    /// The payload bytes of each segment that the port was asked to cut the frame into.
    #[inline]
    pub fn tso_segment_bytes(&self) -> Option<u16> {
        let view = self.view();
        (view.ol_flags & sys::SHIM_TX_TCP_SEG != 0)
            .then_some((view.tx_offload >> sys::SHIM_TSO_SEGSZ_SHIFT) as u16)
    }

    /// Frees all of `burst` with few calls into DPDK.
    pub fn free_burst(burst: &mut VecDeque<Mbuf>) {
        let (front, back) = burst.as_mut_slices();
        for mbufs in [front, back] {
            // SAFETY: `Mbuf` is transparent over the pointer; each is valid and owned here, and is forgotten below.
            unsafe { sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr().cast(), mbufs.len() as u32) };
        }
        let count = burst.len();
        for mbuf in burst.drain(..) {
            mbuf.forget();
        }
        ledger::gave(count);
    }

    /// Leaves the mbuf to somebody else, who has it by its pointer already.
    #[inline]
    pub(crate) fn forget(self) {
        let _ = ManuallyDrop::new(self);
    }

    #[inline]
    fn view(&self) -> &sys::shim_mbuf {
        // SAFETY: valid for as long as this handle; shim.c holds the view's layout to that of the mbuf.
        unsafe { self.raw.cast::<sys::shim_mbuf>().as_ref() }
    }

    #[inline]
    fn view_mut(&mut self) -> &mut sys::shim_mbuf {
        // SAFETY: as in `view`, and the exclusive borrow of the only handle is held.
        unsafe { self.raw.cast::<sys::shim_mbuf>().as_mut() }
    }

    #[inline]
    fn first_segment(&self) -> (*mut u8, usize) {
        let view = self.view();
        // SAFETY: data_off lies within the buffer.
        let data = unsafe { view.buf_addr.cast::<u8>().add(usize::from(view.data_off)) };
        (data, usize::from(view.data_len))
    }
}

/// Appends mbufs that a call into DPDK wrote.
///
/// # Safety
/// Each pointer must have been written, and be as [`Mbuf::from_raw`] wants it.
#[inline]
pub(crate) unsafe fn append(burst: &mut VecDeque<Mbuf>, raw: &[MaybeUninit<*mut sys::rte_mbuf>]) {
    burst.extend(raw.iter().map(|raw| {
        // SAFETY: written, says the caller.
        let raw = unsafe { raw.assume_init() };
        // SAFETY: says the caller.
        unsafe { Mbuf::from_raw(raw) }
    }));
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: valid and owned by this handle, which ends here.
        unsafe { sys::shim_mbuf_free(self.raw.as_ptr()) };
        ledger::gave(1);
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}
