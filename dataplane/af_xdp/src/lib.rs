//! Frames and rings between one core and one NIC queue, and the XDP program that steers to them.
