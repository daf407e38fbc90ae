//! The retry budget of one request, and of one retry; against tower's.

use std::time::{Duration, Instant};

use mesh_core::policy::budget::{Budget, BudgetConfig};
use tower::retry::budget::{Budget as _, TpsBudget};

use super::{Run, Subject};

/// A deposit for each request, a withdrawal for one in ten.
pub fn subjects() -> Vec<Subject> {
    let tower = "budget tower tps".to_owned();
    vec![
        Subject::theirs(tower.clone(), towers),
        Subject::ours("budget deposit and withdraw".to_owned(), Some(tower), ours),
    ]
}

fn ours() -> Run {
    let budget = Budget::new(BudgetConfig::default());
    Box::new(move |times| {
        for number in 0..times {
            let now = Instant::now();
            budget.deposit(now);
            if number % 10 == 0 {
                std::hint::black_box(budget.withdraw(now).is_ok());
            }
        }
    })
}

/// 10 s, 10 retries a second, 20 %: the same numbers.
fn towers() -> Run {
    let budget = TpsBudget::new(Duration::from_secs(10), 10, 0.2);
    Box::new(move |times| {
        for number in 0..times {
            budget.deposit();
            if number % 10 == 0 {
                std::hint::black_box(budget.withdraw());
            }
        }
    })
}
