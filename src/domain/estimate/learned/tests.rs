//! What is learned, from whom, and how it is forgotten.

use proptest::prelude::*;

use super::*;

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn asker(key: Option<&str>, project: Option<&str>, model: &str) -> Arc<Subject> {
    Arc::new(Subject {
        api_key: key.map(id),
        project: project.map(id),
        model: Some(id(model)),
        ..Subject::of_workspace(id("ws"))
    })
}

fn used(input: u64, output: u64) -> Usage {
    Usage { input, output, ..Usage::default() }
}

/// A table that this subject taught `times` times.
fn taught(subject: &Arc<Subject>, usage: Usage, times: u32, lesson: Lesson) -> Learned {
    let mut learned = Learned::default();
    (0..times).for_each(|_| learned.learn(subject, &usage, lesson));
    learned
}

fn high_of(samples: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut histogram = Histogram::default();
    samples.into_iter().for_each(|sample| histogram.add(sample));
    histogram.high()
}

fn samples(runs: &[(usize, u64)]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|(times, value)| std::iter::repeat_n(*value, *times))
}

#[test]
fn each_bound_is_at_most_half_as_large_again_as_the_one_before() {
    for pair in BOUNDS.windows(2) {
        assert!(pair[0] < pair[1] && pair[1] * 2 <= pair[0] * 3, "{pair:?}");
    }
}

#[test]
fn all_but_one_sample_in_a_hundred_stay_within_what_is_said() {
    for (runs, high) in [
        (&[(99, 300)][..], None),
        (&[(100, 300)], Some(384)),
        (&[(100, 384)], Some(384)),
        (&[(100, 385)], Some(512)),
        (&[(100, 0)], Some(64)),
        (&[(99, 50), (1, 5_000)], Some(64)),
        (&[(98, 50), (2, 5_000)], Some(6_144)),
        (&[(195, 50), (2, 5_000), (3, 90_000)], Some(98_304)),
        (&[(100, u64::MAX)], Some(3_145_728)),
    ] {
        assert_eq!(high_of(samples(runs)), high, "{runs:?}");
    }
}

#[test]
fn a_change_of_habits_shows_and_a_single_outlier_is_forgotten() {
    assert_eq!(high_of(samples(&[(50_000, 4_000), (10_000, 100)])), Some(128));
    assert_eq!(high_of(samples(&[(50_000, 100), (21, 4_000)])), Some(4_096));
    assert_eq!(high_of(samples(&[(1, 1_000_000), (4_000, 100)])), Some(128));
}

#[test]
fn a_capped_answer_teaches_only_how_long_requests_are() {
    let subject = asker(Some("k"), None, "m");
    for (lesson, input, output) in [
        (Lesson::Nothing, None, None),
        (Lesson::Input, Some(1_024), None),
        (Lesson::InputAndOutput, Some(1_024), Some(256)),
    ] {
        let mut learned = taught(&subject, used(1_000, 200), 100, lesson);
        assert_eq!(learned.usual(&subject), Usual { input, output }, "{lesson:?}");
    }
}

#[test]
fn those_with_the_same_key_and_model_learn_from_each_other_and_nobody_else_does() {
    let mut learned =
        taught(&asker(Some("k"), Some("p"), "m"), used(9, 9), 100, Lesson::InputAndOutput);
    let identity =
        Subject { identity: Some(id("ada")), ..(*asker(Some("k"), Some("q"), "m")).clone() };
    assert_eq!(learned.usual(&identity).output, Some(64));
    let elsewhere = Subject { workspace: id("other"), ..identity.clone() };
    let modelless = Subject { model: None, ..identity };
    for other in [
        asker(Some("j"), Some("p"), "m"),
        asker(Some("k"), Some("p"), "n"),
        asker(None, Some("k"), "m"),
        asker(None, None, "m"),
        Arc::new(elsewhere),
        Arc::new(modelless),
    ] {
        assert_eq!(learned.usual(&other), Usual::default(), "{other:?}");
    }
    for alike in [asker(None, Some("p"), "m"), asker(None, None, "m")] {
        let mut learned = taught(&alike, used(9, 9), 100, Lesson::InputAndOutput);
        assert_eq!(learned.usual(&alike).output, Some(64), "{alike:?}");
    }
}

#[test]
fn a_full_table_forgets_those_who_did_not_ask_of_late() {
    let regular = asker(Some("regular"), None, "m");
    let mut learned = taught(&regular, used(9, 9), 100, Lesson::InputAndOutput);
    for passer_by in 0..3 * LEARNED_MAX {
        let passer_by = asker(Some(&passer_by.to_string()), None, "m");
        learned.learn(&passer_by, &used(9, 9), Lesson::InputAndOutput);
        assert_eq!(learned.usual(&regular).output, Some(64));
    }
    assert_eq!((learned.slots.len(), learned.index.len()), (LEARNED_MAX, LEARNED_MAX));
    for newcomer in 0..3 * LEARNED_MAX {
        learned.learn(
            &asker(Some(&format!("new-{newcomer}")), None, "m"),
            &used(9, 9),
            Lesson::Input,
        );
    }
    assert_eq!(learned.usual(&regular), Usual::default());
    assert_eq!((learned.slots.len(), learned.index.len()), (LEARNED_MAX, LEARNED_MAX));
}

/// The least value that 95 of 100 samples stay within.
fn p95(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * 95).div_ceil(100) - 1]
}

/// Small and large numbers alike.
fn tokens() -> impl Strategy<Value = u64> {
    (0_u32..22).prop_flat_map(|bits| 0..1_u64 << bits)
}

proptest! {
    #[test]
    fn what_is_said_is_never_below_the_95th_percentile_nor_far_above_the_greatest(
        fed in prop::collection::vec(tokens(), 100..600),
        rounds in 1_usize..40,
    ) {
        let high = high_of(std::iter::repeat_n(&fed, rounds).flatten().copied()).unwrap();
        let greatest = fed.iter().copied().max().unwrap();
        prop_assert!(high >= p95(&fed), "{high} is below {}", p95(&fed));
        prop_assert!(high <= (greatest * 3 / 2).max(BOUNDS[0]), "{high} is far above {greatest}");
    }
}
