//! Connection flows to slab slots.
