//! Edit scripts: which elements of one list become which of another.
//!
//! A greedy search from both ends that prefers decent scripts over shortest ones, as go-cmp does
//! (`internal/diff`), so that the same elements are paired as there.

/// A step of an edit script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    /// The next elements are equal.
    Identity,
    /// The next elements are each other's changed forms.
    Modified,
    /// The next element of the first list is gone.
    Removed,
    /// The next element of the second list is new.
    Inserted,
}

/// How alike two elements are: leaves that are the same, and that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Likeness {
    pub(super) same: usize,
    pub(super) different: usize,
}

impl Likeness {
    /// Of elements that are equal or not, and nothing between.
    pub(super) fn of_equality(equal: bool) -> Likeness {
        if equal {
            Likeness {
                same: 1,
                different: 0,
            }
        } else {
            Likeness {
                same: 0,
                different: 2,
            }
        }
    }

    fn is_equal(self) -> bool {
        self.different == 0
    }

    fn is_similar(self) -> bool {
        self.same + 1 >= self.different
    }
}

type Point = (usize, usize);

/// The script that makes a list of length `nx` one of length `ny`.
pub(super) fn script(nx: usize, ny: usize, like: impl Fn(usize, usize) -> Likeness) -> Vec<Edit> {
    let mut search = Search {
        like,
        forward: (0, 0),
        backward: (nx, ny),
        head: Vec::new(),
        tail: Vec::new(),
        budget: 4 * (nx + ny),
    };
    let (mut front, mut back) = ((0, 0), (nx, ny));
    let done =
        |front: Point, back: Point, budget: usize| front.0 >= back.0 || front.1 >= back.1 || budget == 0;
    loop {
        if done(front, back, search.budget) {
            break;
        }
        search.search_backward(&mut back);
        if done(front, back, search.budget) {
            break;
        }
        search.search_forward(&mut front);
    }
    let end = search.backward;
    search.connect_forward(end);
    search.head.extend(search.tail.iter().rev());
    search.head
}

struct Search<F> {
    like: F,
    /// Where the script's head ends and its tail begins.
    forward: Point,
    backward: Point,
    head: Vec<Edit>,
    /// In reverse.
    tail: Vec<Edit>,
    budget: usize,
}

/// 0, -1, 1, -2, 2, …
fn zigzag(step: isize) -> isize {
    if step & 1 == 0 { step >> 1 } else { !step >> 1 }
}

impl<F: Fn(usize, usize) -> Likeness> Search<F> {
    /// Looks for a match from the start along the diagonal at `front`.
    fn search_forward(&mut self, front: &mut Point) {
        let (mut stop1, mut stop2) = (false, false);
        let mut step = 0;
        while !(stop1 && stop2) && self.budget > 0 {
            let z = zigzag(step);
            step += 1;
            let (x, y) = (front.0 as isize + z, front.1 as isize - z);
            if x >= self.backward.0 as isize || y < self.forward.1 as isize {
                stop1 = true;
            } else if y >= self.backward.1 as isize || x < self.forward.0 as isize {
                stop2 = true;
            } else if (self.like)(x as usize, y as usize).is_equal() {
                self.connect_forward((x as usize, y as usize));
                self.push_head(Edit::Identity);
                while self.forward.0 < self.backward.0
                    && self.forward.1 < self.backward.1
                    && (self.like)(self.forward.0, self.forward.1).is_equal()
                {
                    self.push_head(Edit::Identity);
                }
                *front = self.forward;
                (stop1, stop2) = (true, true);
            } else {
                self.budget -= 1;
            }
        }
        if self.backward.0 as isize - front.0 as isize >= self.backward.1 as isize - front.1 as isize {
            front.0 += 1;
        } else {
            front.1 += 1;
        }
    }

    /// Looks for a match from the end along the diagonal at `back`.
    fn search_backward(&mut self, back: &mut Point) {
        let (mut stop1, mut stop2) = (false, false);
        let mut step = 0;
        while !(stop1 && stop2) && self.budget > 0 {
            let z = zigzag(step);
            step += 1;
            let (x, y) = (back.0 as isize - z, back.1 as isize + z);
            if self.forward.0 as isize >= x || (self.backward.1 as isize) < y {
                stop1 = true;
            } else if self.forward.1 as isize >= y || (self.backward.0 as isize) < x {
                stop2 = true;
            } else if (self.like)(x as usize - 1, y as usize - 1).is_equal() {
                self.connect_backward((x as usize, y as usize));
                self.push_tail(Edit::Identity);
                while self.forward.0 < self.backward.0
                    && self.forward.1 < self.backward.1
                    && (self.like)(self.backward.0 - 1, self.backward.1 - 1).is_equal()
                {
                    self.push_tail(Edit::Identity);
                }
                *back = self.backward;
                (stop1, stop2) = (true, true);
            } else {
                self.budget -= 1;
            }
        }
        if back.0 as isize - self.forward.0 as isize >= back.1 as isize - self.forward.1 as isize {
            back.0 = back.0.saturating_sub(1);
        } else {
            back.1 = back.1.saturating_sub(1);
        }
    }

    fn connect_forward(&mut self, to: Point) {
        while to.0 > self.forward.0 && to.1 > self.forward.1 {
            let like = (self.like)(self.forward.0, self.forward.1);
            let edit = if like.is_equal() {
                Edit::Identity
            } else if like.is_similar() {
                Edit::Modified
            } else if to.0 - self.forward.0 >= to.1 - self.forward.1 {
                Edit::Removed
            } else {
                Edit::Inserted
            };
            self.push_head(edit);
        }
        while to.0 > self.forward.0 {
            self.push_head(Edit::Removed);
        }
        while to.1 > self.forward.1 {
            self.push_head(Edit::Inserted);
        }
    }

    fn connect_backward(&mut self, to: Point) {
        while self.backward.0 > to.0 && self.backward.1 > to.1 {
            let like = (self.like)(self.backward.0 - 1, self.backward.1 - 1);
            let edit = if like.is_equal() {
                Edit::Identity
            } else if like.is_similar() {
                Edit::Modified
            } else if self.backward.1 - to.1 >= self.backward.0 - to.0 {
                Edit::Inserted
            } else {
                Edit::Removed
            };
            self.push_tail(edit);
        }
        while self.backward.0 > to.0 {
            self.push_tail(Edit::Removed);
        }
        while self.backward.1 > to.1 {
            self.push_tail(Edit::Inserted);
        }
    }

    fn push_head(&mut self, edit: Edit) {
        self.forward.0 += usize::from(edit != Edit::Inserted);
        self.forward.1 += usize::from(edit != Edit::Removed);
        self.head.push(edit);
    }

    fn push_tail(&mut self, edit: Edit) {
        self.backward.0 -= usize::from(edit != Edit::Inserted);
        self.backward.1 -= usize::from(edit != Edit::Removed);
        self.tail.push(edit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(x: &str, y: &str) -> String {
        let (x, y): (Vec<char>, Vec<char>) = (x.chars().collect(), y.chars().collect());
        let edits = script(x.len(), y.len(), |a, b| Likeness::of_equality(x[a] == y[b]));
        edits
            .iter()
            .map(|edit| match edit {
                Edit::Identity => '.',
                Edit::Modified => 'M',
                Edit::Removed => 'X',
                Edit::Inserted => 'Y',
            })
            .collect()
    }

    #[test]
    fn equal_elements_are_kept_and_others_removed_and_inserted() {
        for (x, y, edits) in [
            ("", "", ""),
            ("abc", "abc", "..."),
            ("abc", "abcd", "...Y"),
            ("xabc", "abc", "X..."),
            ("", "ab", "YY"),
        ] {
            assert_eq!(of(x, y), edits, "{x:?} to {y:?}");
        }
    }
}
