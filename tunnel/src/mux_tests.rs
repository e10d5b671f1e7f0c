//! The multiplexer's rules, checked without any I/O, and a pair of multiplexers under random events.

use super::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

const TARGET: Target = Target::Local(10250);

fn pair(window: u32) -> (Mux, Mux) {
    (Mux::new(Role::Server, false, window, 64), Mux::new(Role::Agent, true, window, 64))
}

fn frames(actions: &[Action]) -> Vec<Frame> {
    actions.iter().filter_map(|a| if let Action::Send(frame) = a { Some(frame.clone()) } else { None }).collect()
}

/// Gives every frame among `actions` to `peer`; returns what the peer wants done.
fn carry(actions: Vec<Action>, peer: &mut Mux) -> Actions {
    let step = |frame| peer.step(Event::Received(frame)).expect("our own frames are legal");
    frames(&actions).into_iter().flat_map(step).collect()
}

fn local(mux: &mut Mux, event: Event) -> Actions {
    mux.step(event).expect("local events never fail")
}

fn opened(window: u32) -> (Mux, Mux) {
    let (mut server, mut agent) = pair(window);
    let incoming = carry(local(&mut server, Event::Open { stream: 1, target: TARGET }), &mut agent);
    assert_eq!(incoming, [Action::Incoming { stream: 1, target: TARGET }]);
    let answer = carry(local(&mut agent, Event::Accept { stream: 1 }), &mut server);
    assert_eq!(answer, [Action::Opened { stream: 1 }, Action::Writable { stream: 1 }]);
    (server, agent)
}

#[test]
fn data_spends_the_window_and_consumption_gives_it_back() {
    let (mut server, mut agent) = opened(100);
    assert_eq!(server.sendable(1), 100);
    let data = Bytes::from(vec![7; 100]);
    let delivered = carry(local(&mut server, Event::Transmit { stream: 1, data: data.clone() }), &mut agent);
    assert_eq!(delivered, [Action::Deliver { stream: 1, data }]);
    assert_eq!(server.sendable(1), 0);
    assert_eq!(local(&mut agent, Event::Consumed { stream: 1, len: 49 }), []);
    let credit = local(&mut agent, Event::Consumed { stream: 1, len: 1 });
    assert_eq!(credit, [Action::Send(Frame::Credit { stream: 1, credit: 50 })]);
    assert_eq!(carry(credit, &mut server), [Action::Writable { stream: 1 }]);
    assert_eq!(server.sendable(1), 50);
}

#[test]
fn half_close_keeps_the_other_direction_and_the_second_close_ends_the_stream() {
    let (mut server, mut agent) = opened(100);
    let eof = carry(local(&mut server, Event::CloseWrite { stream: 1 }), &mut agent);
    assert_eq!(eof, [Action::DeliverEof { stream: 1 }]);
    let data = Bytes::from_static(b"answer");
    let delivered = carry(local(&mut agent, Event::Transmit { stream: 1, data: data.clone() }), &mut server);
    assert_eq!(delivered, [Action::Deliver { stream: 1, data }]);
    let end = local(&mut agent, Event::CloseWrite { stream: 1 });
    assert!(end.contains(&Action::Closed { stream: 1 }));
    assert_eq!(carry(end, &mut server), [Action::DeliverEof { stream: 1 }, Action::Closed { stream: 1 }]);
    assert!(server.is_empty() && agent.is_empty());
}

#[test]
fn refusal_and_abandonment_leave_nothing_on_either_side() {
    let (mut server, mut agent) = pair(100);
    carry(local(&mut server, Event::Open { stream: 1, target: TARGET }), &mut agent);
    let refusal = local(&mut agent, Event::Refuse { stream: 1, message: "no".into() });
    let told = carry(refusal, &mut server);
    assert_eq!(told, [Action::OpenFailed { stream: 1, message: "no".into() }, Action::Closed { stream: 1 }]);

    carry(local(&mut server, Event::Open { stream: 3, target: TARGET }), &mut agent);
    let reset = carry(local(&mut server, Event::Abandon { stream: 3 }), &mut agent);
    assert!(reset.contains(&Action::Closed { stream: 3 }));
    assert_eq!(local(&mut agent, Event::Accept { stream: 3 }), [], "an answer that comes late is dropped");
    assert!(server.is_empty() && agent.is_empty());
}

#[test]
fn violations_of_the_peer_are_errors() {
    let data = |len: usize| Frame::Data { stream: 1, data: Bytes::from(vec![0; len]) };
    let (mut server, mut agent) = opened(100);
    let error = |mux: &mut Mux, frame| mux.step(Event::Received(frame)).expect_err("a violation");
    assert_eq!(error(&mut agent, data(101)), ProtocolError::WindowExceeded(1));
    let overflow = Frame::Credit { stream: 1, credit: WINDOW_MAX };
    assert_eq!(error(&mut server, overflow), ProtocolError::CreditOverflow(1));
    let open = |stream| Frame::Open { stream, window: 100, target: TARGET };
    assert_eq!(error(&mut agent, open(1)), ProtocolError::Reused(1));
    assert_eq!(error(&mut agent, open(2)), ProtocolError::WrongParity(2));
    let again = Frame::OpenOk { stream: 1, window: 100 };
    assert_eq!(error(&mut server, again), ProtocolError::UnexpectedAnswer(1));
    carry(local(&mut server, Event::CloseWrite { stream: 1 }), &mut agent);
    assert_eq!(error(&mut agent, data(1)), ProtocolError::AfterEnd(1));
    local(&mut server, Event::Open { stream: 3, target: TARGET });
    let early = Frame::Data { stream: 3, data: Bytes::from_static(b"x") };
    assert_eq!(error(&mut server, early), ProtocolError::NotOpen(3));
}

#[test]
fn frames_for_unknown_streams_are_ignored() {
    let (mut server, _) = pair(100);
    for frame in [
        Frame::OpenOk { stream: 9, window: 100 },
        Frame::Data { stream: 9, data: Bytes::from_static(b"late") },
        Frame::Credit { stream: 9, credit: 5 },
        Frame::CloseWrite { stream: 9 },
        Frame::Reset { stream: 9, reason: ResetReason::Cancelled },
    ] {
        assert_eq!(server.step(Event::Received(frame)), Ok(vec![]));
    }
}

#[test]
fn a_side_without_acceptor_or_room_refuses_opens() {
    let refused = |mux: &mut Mux, stream| {
        let actions = mux.step(Event::Received(Frame::Open { stream, window: 100, target: TARGET }));
        matches!(actions.as_deref(), Ok([Action::Send(Frame::OpenError { .. })]))
    };
    assert!(refused(&mut Mux::new(Role::Server, false, 100, 64), 2));
    let mut full = Mux::new(Role::Agent, true, 100, 1);
    assert!(!refused(&mut full, 1));
    assert!(refused(&mut full, 3));
}

#[test]
fn resync_resets_strays_on_both_sides_and_spares_streams_being_opened() {
    let (mut server, mut agent) = opened(100);
    agent.streams.remove(&1).expect("the stream is open");
    local(&mut server, Event::Open { stream: 3, target: TARGET });
    let told = carry(local(&mut agent, Event::Resync), &mut server);
    let stray = Action::DeliverReset { stream: 1, reason: ResetReason::Stray };
    assert_eq!(told, [stray, Action::Closed { stream: 1 }]);
    assert_eq!(server.len(), 1, "stream 3 is being opened and stays");

    let (mut server, mut agent) = opened(100);
    server.streams.remove(&1).expect("the stream is open");
    let answer = local(&mut agent, Event::Resync);
    let resets = carry(answer, &mut server);
    assert!(carry(resets, &mut agent).contains(&Action::Closed { stream: 1 }));
}

#[test]
fn resync_of_agreeing_sides_does_nothing() {
    let (mut server, mut agent) = opened(100);
    assert_eq!(carry(local(&mut agent, Event::Resync), &mut server), []);
    assert_eq!(carry(local(&mut server, Event::Resync), &mut agent), []);
}

fn random_frame(rng: &mut StdRng) -> Frame {
    let stream = rng.random_range(1..12);
    match rng.random_range(0..10) {
        0 => Frame::Open { stream, window: rng.random_range(16..200), target: TARGET },
        1 => Frame::OpenOk { stream, window: rng.random_range(16..200) },
        2 => Frame::OpenError { stream, message: "no".into() },
        3 | 4 => Frame::Data { stream, data: Bytes::from(vec![0; rng.random_range(0..60)]) },
        5 => Frame::Credit { stream, credit: rng.random_range(1..100) },
        6 => Frame::CloseWrite { stream },
        7 => Frame::Reset { stream, reason: ResetReason::Cancelled },
        8 => Frame::Streams((0..rng.random_range(0..6)).map(|_| rng.random_range(1..12)).collect()),
        _ => Frame::Ping(1),
    }
}

#[test]
fn a_hostile_peer_never_panics_the_mux_nor_grows_it_beyond_its_bound() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut steps = 0;
    for _ in 0..4000 {
        let mut mux = Mux::new(Role::Agent, true, 100, 3);
        let mut live = 0i64;
        for _ in 0..100 {
            let event = match rng.random_range(0..6) {
                0 => Event::Accept { stream: rng.random_range(1..12) },
                1 => Event::Abandon { stream: rng.random_range(1..12) },
                2 => Event::Consumed { stream: rng.random_range(1..12), len: rng.random_range(0..500) },
                _ => Event::Received(random_frame(&mut rng)),
            };
            let Ok(actions) = mux.step(event) else { break };
            for action in &actions {
                match action {
                    Action::Incoming { .. } => live += 1,
                    Action::Closed { .. } => live -= 1,
                    _ => {}
                }
            }
            assert_eq!(live, mux.len() as i64, "each stream is announced and closed exactly once");
            assert!(mux.len() <= 3);
            steps += 1;
        }
    }
    assert!(steps > 20_000, "sessions live long enough to mean something: {steps}");
}

/// Two honest sides, every local event at random, frames delivered in order with random delay.
#[test]
fn two_honest_sides_never_see_a_protocol_error_and_end_empty() {
    use std::collections::VecDeque;
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..200 {
        let (mut server, mut agent) = pair(64);
        let mut wires: [VecDeque<Frame>; 2] = Default::default();
        let mut next = 1;
        for step in 0..600 {
            let from_server = rng.random_bool(0.5);
            let (mux, other) = if from_server { (&mut server, 0) } else { (&mut agent, 1) };
            let stream = rng.random_range(0..next.max(1)) | 1;
            let sendable = mux.sendable(stream);
            let event = match rng.random_range(0..9) {
                0 if from_server && mux.len() < 20 && step < 500 => {
                    next += 2;
                    Event::Open { stream: next - 2, target: TARGET }
                }
                1 if sendable > 0 => {
                    Event::Transmit { stream, data: Bytes::from(vec![1; rng.random_range(1..=sendable)]) }
                }
                2 => Event::CloseWrite { stream },
                3 if rng.random_bool(0.2) => Event::Abandon { stream },
                4 if !from_server => Event::Accept { stream },
                5 if !from_server && rng.random_bool(0.2) => Event::Refuse { stream, message: "no".into() },
                6 => Event::Consumed { stream, len: rng.random_range(1..64) },
                7 if rng.random_bool(0.1) => Event::Resync,
                _ => match wires[1 - other].pop_front() {
                    Some(frame) => Event::Received(frame),
                    None => continue,
                },
            };
            let actions = mux.step(event).expect("honest sides agree");
            wires[other].extend(frames(&actions));
        }
        for stream in (1..next).step_by(2) {
            let actions = local(&mut server, Event::Abandon { stream });
            wires[0].extend(frames(&actions));
        }
        while wires.iter().any(|wire| !wire.is_empty()) {
            for (from, mux) in [(0, &mut agent), (1, &mut server)] {
                let pending: Vec<Frame> = wires[from].drain(..).collect();
                for frame in pending {
                    let actions = mux.step(Event::Received(frame)).expect("honest sides agree");
                    wires[1 - from].extend(frames(&actions));
                }
            }
        }
        assert_eq!((server.len(), agent.len()), (0, 0));
    }
}
