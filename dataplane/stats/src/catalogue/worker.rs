//! What every worker counts, whatever crypto or device it has. Its drops by cause follow these in
//! the block, as the worker crate declares them.

use super::table;

table! {
    /// A fixed counter of a worker's block.
    ///
    /// The first eight are the terms of the accounting identity ([`Accounting`](crate::Accounting)).
    enum Worker;
    /// A worker's fixed counters, as plain integers that only it touches between publications.
    struct WorkerCounters;

    Received, "received", "Packets received", Counter, Packets,
        "Packets taken from ports, the host port and the kernel's reassembly, before any check.";
    Generated, "generated", "Packets generated", Counter, Packets,
        "Packets made here: ICMP errors, keepalives, every fragment beyond the packet it came from.";
    ReleasedFromWaiting, "released_from_waiting", "Packets released from waiting", Counter, Packets,
        "Packets that left a waiting queue, to go on or to be dropped.";
    HandedIn, "handed_in", "Packets handed in", Counter, Packets,
        "Packets taken from another worker's handoff ring.";
    Sent, "sent", "Packets sent", Counter, Packets,
        "Packets given to a port's transmit ring.";
    ToHost, "to_host", "Packets to the host", Counter, Packets,
        "Packets written to the host port.";
    TakenIntoWaiting, "taken_into_waiting", "Packets taken into waiting", Counter, Packets,
        "Packets put into a waiting queue, for an SA or a next hop.";
    HandedOut, "handed_out", "Packets handed out", Counter, Packets,
        "Packets put into another worker's handoff ring.";
    Waiting, "waiting", "Packets waiting", Gauge, Packets,
        "Packets in waiting queues: taken into waiting less released from it.";
    SealedPackets, "sealed_packets", "Packets sealed", Counter, Packets,
        "Packets to which ESP or AH was applied.";
    OpenedPackets, "opened_packets", "Packets opened", Counter, Packets,
        "Packets from which ESP or AH was removed, and accepted.";
    BadSpiPackets, "bad_spi_packets", "Bad SPI Packets", Counter, Packets,
        "This worker's part of the quick mode row.";
    PacketsNotDecrypted, "packets_not_decrypted", "Packets Not Decrypted", Counter, Packets,
        "This worker's part of the quick mode row.";
    PacketsNotAuthenticated, "packets_not_authenticated", "Packets Not Authenticated", Counter, Packets,
        "This worker's part of the quick mode row.";
    PacketsWithReplayDetection, "packets_with_replay_detection", "Packets With Replay Detection", Counter, Packets,
        "This worker's part of the quick mode row.";
    ConfidentialBytesSent, "confidential_bytes_sent", "Confidential Bytes Sent", Counter, Bytes,
        "This worker's part of the quick mode row.";
    ConfidentialBytesReceived, "confidential_bytes_received", "Confidential Bytes Received", Counter, Bytes,
        "This worker's part of the quick mode row.";
    AuthenticatedBytesSent, "authenticated_bytes_sent", "Authenticated Bytes Sent", Counter, Bytes,
        "This worker's part of the quick mode row.";
    AuthenticatedBytesReceived, "authenticated_bytes_received", "Authenticated Bytes Received", Counter, Bytes,
        "This worker's part of the quick mode row.";
    TransportBytesSent, "transport_bytes_sent", "Transport Bytes Sent", Counter, Bytes,
        "This worker's part of the quick mode row.";
    TransportBytesReceived, "transport_bytes_received", "Transport Bytes Received", Counter, Bytes,
        "This worker's part of the quick mode row.";
    TunnelBytesSent, "tunnel_bytes_sent", "Bytes Sent in Tunnels", Counter, Bytes,
        "This worker's part of the quick mode row.";
    TunnelBytesReceived, "tunnel_bytes_received", "Bytes Received in Tunnels", Counter, Bytes,
        "This worker's part of the quick mode row.";
    OffloadedBytesSent, "offloaded_bytes_sent", "Offloaded Bytes Sent", Counter, Bytes,
        "This worker's part of the quick mode row.";
    OffloadedBytesReceived, "offloaded_bytes_received", "Offloaded Bytes Received", Counter, Bytes,
        "This worker's part of the quick mode row.";
    ReceivedBytes, "received_bytes", "Bytes received", Counter, Bytes,
        "Bytes of the packets received, link header included where the device has one.";
    SentBytes, "sent_bytes", "Bytes sent", Counter, Bytes,
        "Bytes of the packets sent, link header included where the device has one.";
    Bursts, "bursts", "Receive bursts", Counter, Bursts,
        "Receive bursts that held at least one packet.";
    Turns, "turns", "Turns", Counter, Events,
        "Turns of the worker's loop.";
    Sleeps, "sleeps", "Sleeps", Counter, Events,
        "Times the worker went to sleep in poll.";
    Wakes, "wakes", "Wakes", Counter, Events,
        "Times the worker was woken by an event, not by a time-out.";
    BusyCycles, "busy_cycles", "Busy cycles", Counter, Cycles,
        "Cycles of turns that did work.";
    IdleCycles, "idle_cycles", "Idle cycles", Counter, Cycles,
        "Cycles of turns that found nothing to do; sleep not included.";
    CommandsApplied, "commands_applied", "Commands applied", Counter, Commands,
        "Commands of the control thread applied, the sequence the worker acknowledges.";
    FramesFree, "frames_free", "Frames free", Gauge, Frames,
        "Frames of the worker's UMEM that are in no ring and in no hand.";
    FramesReceiving, "frames_receiving", "Frames receiving", Gauge, Frames,
        "Frames in fill and receive rings.";
    FramesSending, "frames_sending", "Frames sending", Gauge, Frames,
        "Frames in transmit and completion rings.";
    FramesOut, "frames_out", "Frames out", Gauge, Frames,
        "Frames in no ring and not free, counted between two turns, when the worker has none in hand: lost.";
    InboundSas, "inbound_sas", "Inbound SAs", Gauge, Sas,
        "Inbound SAs this worker owns.";
    OutboundSas, "outbound_sas", "Outbound SAs", Gauge, Sas,
        "Outbound SAs this worker owns.";
}
