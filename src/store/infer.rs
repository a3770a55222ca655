//! When a boot began that never saw its clock synchronised, from what its neighbours tell: pure.
//!
//! A boot ends before the next begins. It cannot have begun before an earlier one ended, and what its own
//! sources say of the time bounds it from below. Boots are worked out from the newest back, each before
//! the next, so that their order holds whatever is guessed.

/// A boot, as far as it is known. Offsets are Unix seconds minus boot clock, which is when it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Latest reading of its clock that is known, in seconds.
    pub lasted: f64,
    /// The offset, once known.
    pub known: Option<f64>,
    /// By its own wall clock, which may have shown anything.
    pub shown: Option<f64>,
    /// Offsets that it cannot be below, if the clocks of its sources were right.
    pub evidence: Vec<f64>,
}

/// An offset that was worked out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inferred {
    pub offset: f64,
    /// It may be off by so many seconds; `None` where nothing bounds it from below.
    pub uncertainty: Option<f64>,
}

/// The offsets of the boots in `lives`, oldest first, that are not known and lie before one that is.
/// `jump` is how far the newest boot's own wall clock was off until it was synchronised, in seconds.
pub fn infer(lives: &[Life], jump: Option<f64>) -> Vec<Option<Inferred>> {
    let mut inferred = vec![None; lives.len()];
    // What begins next, and how late it may have begun at most: the guess, and the bound.
    let mut next: Option<f64> = None;
    for (index, life) in lives.iter().enumerate().rev() {
        if life.known.is_some() {
            next = life.known;
            continue;
        }
        let Some(latest) = next.map(|next| next - life.lasted) else { continue };
        let found = one(life, earliest(&lives[..index]), latest, jump);
        next = Some(found.offset);
        inferred[index] = Some(found);
    }
    inferred
}

/// When the boot behind `lives` can have begun at the earliest.
fn earliest(lives: &[Life]) -> Option<f64> {
    let known = lives.iter().rposition(|life| life.known.is_some())?;
    let since: f64 = lives[known..].iter().map(|life| life.lasted).sum();
    lives[known].known.map(|offset| offset + since)
}

fn one(life: &Life, earliest: Option<f64>, latest: f64, jump: Option<f64>) -> Inferred {
    let floor = earliest.unwrap_or(CREDIBLE_MIN).min(latest);
    let within = |offset: &f64| (floor..=latest).contains(offset);
    let told = life.evidence.iter().copied().filter(within).max_by(f64::total_cmp);
    if let Some(offset) = told {
        return Inferred { offset, uncertainty: Some(EVIDENCE_SECONDS.min(latest - floor)) };
    }
    // A board whose wall clock turned out nearly right has one that runs without power.
    let has_clock = jump.is_some_and(|jump| jump.abs() <= CLOCK_SECONDS_MAX);
    if let Some(offset) = life.shown.filter(within).filter(|_| has_clock) {
        return Inferred { offset, uncertainty: jump.map(|jump| jump.abs() + 1.0) };
    }
    // One that is only saved and restored is late by the time without power, never early.
    let shown = life.shown.filter(|shown| *shown >= CREDIBLE_MIN && within(shown));
    match shown.or(earliest) {
        Some(from) => {
            let from = from.clamp(floor, latest);
            Inferred { offset: from.midpoint(latest), uncertainty: Some((latest - from) / 2.0) }
        }
        None => Inferred { offset: latest, uncertainty: None },
    }
}

/// 2020-01-01: a clock that shows less was not set.
const CREDIBLE_MIN: f64 = 1_577_836_800.0;
/// A wall clock that is off by more at its first synchronisation did not run while the board was off.
const CLOCK_SECONDS_MAX: f64 = 120.0;
/// How far the clock of a source may be off, and how long a reading may have been on its way.
const EVIDENCE_SECONDS: f64 = 60.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: f64 = 1_800_000_000.0;

    fn life(lasted: f64, known: Option<f64>, shown: f64) -> Life {
        Life { lasted, known, shown: Some(shown), evidence: Vec::new() }
    }

    #[test]
    fn without_any_lower_bound_a_boot_ended_when_the_next_began() {
        let lives = [life(100.0, None, 3.0), life(50.0, Some(START), 3.0)];
        let expected = Inferred { offset: START - 100.0, uncertainty: None };
        assert_eq!(infer(&lives, Some(START)), [Some(expected), None]);
    }

    #[test]
    fn between_two_known_boots_it_lies_in_the_middle() {
        let lives =
            [life(100.0, Some(START), 3.0), life(50.0, None, 3.0), life(9.0, Some(START + 350.0), 3.0)];
        let expected = Inferred { offset: START + 200.0, uncertainty: Some(100.0) };
        assert_eq!(infer(&lives, Some(1e9))[1], Some(expected));
    }

    #[test]
    fn a_source_with_a_clock_tells_when_it_was() {
        let mut lives = [life(100.0, None, 3.0), life(50.0, Some(START + 9000.0), 3.0)];
        // One of them is ahead of the next boot and cannot be right.
        lives[0].evidence = vec![START - 3.0, START, START + 9950.0];
        let expected = Inferred { offset: START, uncertainty: Some(60.0) };
        assert_eq!(infer(&lives, Some(1e9))[0], Some(expected));
    }

    #[test]
    fn a_clock_that_runs_without_power_is_believed_and_one_that_is_restored_is_a_lower_bound() {
        let lives = [life(100.0, None, START), life(50.0, Some(START + 1000.0), START + 998.0)];
        let expected = Inferred { offset: START, uncertainty: Some(3.0) };
        assert_eq!(infer(&lives, Some(2.0))[0], Some(expected));
        let expected = Inferred { offset: START + 450.0, uncertainty: Some(450.0) };
        assert_eq!(infer(&lives, Some(500.0))[0], Some(expected));
    }

    #[test]
    fn nothing_is_inferred_behind_the_last_boot_that_is_known() {
        let lives = [life(100.0, Some(START), 3.0), life(50.0, None, 3.0)];
        assert_eq!(infer(&lives, None), [None, None]);
    }

    /// Boots as they were: how long each lasted and how long the board was off before it; which saw a
    /// synchronisation, and what its wall clock showed.
    fn histories() -> impl Strategy<Value = Vec<(f64, f64, bool, f64)>> {
        proptest::collection::vec((0.0..1e6_f64, 0.0..1e7_f64, any::<bool>(), -1e9..3e9_f64), 1..12)
    }

    proptest! {
        #[test]
        fn the_order_of_boots_holds_and_the_truth_lies_within_the_uncertainty(
            boots in histories(),
            jump in proptest::option::of(200.0..1e9_f64),
        ) {
            let mut now = START;
            let (mut lives, mut truth) = (Vec::new(), Vec::new());
            for (lasted, off, synchronised, shown) in boots {
                now += off;
                truth.push(now);
                // A wall clock that is not kept shows no more than the time.
                let shown = shown.min(now);
                lives.push(life(lasted, synchronised.then_some(now), shown));
                now += lasted;
            }
            let inferred = infer(&lives, jump);
            let offset = |index: usize| lives[index].known.or(inferred[index].map(|found| found.offset));
            for index in 0..lives.len() {
                let later = lives[index + 1..].iter().any(|life| life.known.is_some());
                prop_assert_eq!(inferred[index].is_some(), lives[index].known.is_none() && later);
                if let (Some(this), Some(next)) = (offset(index), (index + 1 < lives.len()).then(|| offset(index + 1)).flatten()) {
                    prop_assert!(this + lives[index].lasted <= next + 1e-5);
                }
                if let Some(uncertainty) = inferred[index].and_then(|found| found.uncertainty) {
                    // The bound of the next boot is a guess itself when that one was inferred too.
                    if lives.get(index + 1).is_some_and(|next| next.known.is_some()) {
                        let off = (offset(index).unwrap() - truth[index]).abs();
                        prop_assert!(off <= uncertainty + 1e-5, "{} {}", off, uncertainty);
                    }
                }
            }
        }
    }
}
