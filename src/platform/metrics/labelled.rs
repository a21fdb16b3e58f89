//! A metric with labels whose values are words of this program.

use prometheus_client::metrics::family::Family;

type Words<const N: usize> = [(&'static str, &'static str); N];
/// What is registered.
pub(super) type Inner<M, const N: usize> = Family<Words<N>, M, fn() -> M>;

/// A metric for each set of values of its labels.
#[derive(Clone, Debug)]
pub struct Labelled<M, const N: usize> {
    names: [&'static str; N],
    family: Inner<M, N>,
}

impl<M: Clone, const N: usize> Labelled<M, N> {
    /// With these labels.
    pub fn new(names: [&'static str; N], make: fn() -> M) -> Self {
        Self { names, family: Family::new_with_constructor(make) }
    }

    /// That of these values, in the order of the labels.
    pub fn of(&self, values: [&'static str; N]) -> M {
        let mut words = self.names.map(|name| (name, ""));
        for (word, value) in words.iter_mut().zip(values) {
            word.1 = value;
        }
        self.family.get_or_create_owned(&words)
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.family.clear();
    }

    pub(super) fn names(&self) -> &[&'static str; N] {
        &self.names
    }

    pub(super) fn inner(&self) -> Inner<M, N> {
        self.family.clone()
    }
}
