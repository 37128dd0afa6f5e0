//! RFC 4301, 4302 and 4303 processing against SAD and SPD.
