//! How a breaker opens, tries and closes, against a model of it.

use proptest::prelude::*;

use super::*;

fn fail(breaker: &Breaker, times: u32) {
    for _ in 0..times {
        let _changed = breaker.permit().unwrap().failed(None);
    }
}

#[tokio::test(start_paused = true)]
async fn breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() {
    let breaker = Breaker::new();
    fail(&breaker, THRESHOLD - 1);
    breaker.permit().unwrap().succeeded();
    fail(&breaker, THRESHOLD);
    let wait = breaker.permit().unwrap_err();
    tokio::time::advance(wait).await;
    let probe = breaker.permit().unwrap();
    assert!(breaker.permit().is_err(), "one probe only");
    assert_eq!(probe.succeeded(), Changed::Closed);
    fail(&breaker, THRESHOLD - 1);
    assert!(breaker.permit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn breaker_stays_open_after_a_failed_probe() {
    let breaker = Breaker::new();
    fail(&breaker, THRESHOLD);
    tokio::time::advance(OPEN.0).await;
    assert!(matches!(breaker.permit().unwrap().failed(None), Changed::Opened(_)));
    assert!(breaker.permit().is_err());
    tokio::time::advance(OPEN.0 * 2).await;
    assert!(breaker.permit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_probe_makes_room_for_the_next() {
    let breaker = Breaker::new();
    fail(&breaker, THRESHOLD);
    tokio::time::advance(OPEN.0).await;
    drop(breaker.permit().unwrap());
    assert!(breaker.permit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn old_news_do_not_close_an_open_breaker() {
    let breaker = Breaker::new();
    let old = breaker.permit().unwrap();
    fail(&breaker, THRESHOLD);
    old.succeeded();
    assert!(breaker.permit().is_err());
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_source_alone_do_not_open_it() {
    let breaker = Breaker::new();
    (0..100).for_each(|_| assert_eq!(breaker.permit().unwrap().failed(Some(1)), Changed::No));
    assert_eq!(breaker.permit().unwrap().failed(Some(2)), Changed::No);
    assert!(matches!(breaker.permit().unwrap().failed(Some(3)), Changed::Opened(_)));
}

/// What the world does next.
#[derive(Clone, Debug)]
enum Does {
    /// A call asks to be let in.
    Enters,
    /// The call let in so long ago, counted round, ends: well, badly, or without a word.
    Ends(usize, Option<bool>),
    /// So many milliseconds pass.
    Passes(u64),
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => Just(Does::Enters),
        6 => (any::<usize>(), prop_oneof![3 => Just(Some(false)), 1 => Just(Some(true)), 1 => Just(None)]).prop_map(|(at, how)| Does::Ends(at, how)),
        2 => (1..4_000_u64).prop_map(Does::Passes),
    ]
}

/// The breaker by the words of its invariants. How long it stays open is the breaker's own to say.
#[derive(Debug, PartialEq, Eq)]
enum Model {
    Closed(u32),
    Open,
    /// The number of the call that tries.
    Half(u32),
}

proptest! {
    #[test]
    fn one_probe_and_no_more_gets_through_an_open_breaker(steps in prop::collection::vec(does(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let breaker = Breaker::new();
            // Calls under way, and whether the model has changed since they were let in.
            let (mut model, mut under_way, mut since) = (Model::Closed(0), Vec::<(u32, u32, Permit)>::new(), 0_u32);
            for (call, step) in (0..).zip(steps) {
                match step {
                    Does::Enters => {
                        let is_over = matches!(breaker.standing(), Standing::Open { retry_in } if retry_in.is_zero());
                        let permit = breaker.permit();
                        match model {
                            Model::Closed(_) => prop_assert!(permit.is_ok()),
                            Model::Open if is_over => {
                                prop_assert!(permit.is_ok());
                                (model, since) = (Model::Half(call), since + 1);
                            }
                            Model::Open | Model::Half(_) => prop_assert!(permit.is_err()),
                        }
                        under_way.extend(permit.ok().map(|permit| (call, since, permit)));
                    }
                    Does::Ends(at, how) if !under_way.is_empty() => {
                        let (call, then, permit) = under_way.remove(at % under_way.len());
                        let was = std::mem::replace(&mut model, Model::Open);
                        model = match (was, how) {
                            (was, _) if then != since => was,
                            (Model::Closed(failures), Some(false)) if failures + 1 < THRESHOLD => Model::Closed(failures + 1),
                            (Model::Closed(_), Some(false)) => Model::Open,
                            (Model::Closed(_), Some(true)) => Model::Closed(0),
                            (Model::Half(probe), Some(true)) => { prop_assert_eq!(probe, call); Model::Closed(0) }
                            (Model::Half(probe), _) => { prop_assert_eq!(probe, call); Model::Open }
                            (was, _) => was,
                        };
                        let changed = match how {
                            Some(true) => permit.succeeded(),
                            Some(false) => permit.failed(None),
                            None => { drop(permit); Changed::No }
                        };
                        let has_changed = changed != Changed::No || (how.is_none() && model == Model::Open && then == since);
                        since += u32::from(has_changed);
                    }
                    Does::Ends(..) => {}
                    Does::Passes(time) => tokio::time::advance(Duration::from_millis(time)).await,
                }
                match (breaker.standing(), &model) {
                    (Standing::Closed { failures }, Model::Closed(expected)) => prop_assert_eq!(failures, *expected),
                    (Standing::Open { retry_in }, Model::Open) => prop_assert!(retry_in <= OPEN.1),
                    (Standing::HalfOpen, Model::Half(_)) => {}
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            Ok(())
        })?;
    }
}
