//! `examples/app-python-php`: what pods keep is found again by sets that are made anew.

use std::fs;

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::root;
use stead_tests::console::{Said, is_writing};

use crate::{all, check_column, column, seconds, table};

pub(crate) fn check(said: &[Said]) -> Result<()> {
    let tables = all(said, "kubectl get pods");
    ensure!(
        tables.len() == 3 && tables[1].starts_with("No resources found"),
        "{tables:?}"
    );
    for both in [tables[0], tables[2]] {
        check_column(table(both, "pod/")?, "STATUS", &["Running"; 5])?;
        let claims = table(both, "persistentvolumeclaim/")?;
        let names = ["php-0", "php-1", "python-0", "python-1", "python-2"]
            .map(|pod| format!("persistentvolumeclaim/persistent-volume-app-{pod}"));
        check_column(claims, "NAME", &names.each_ref().map(String::as_str))?;
        check_column(claims, "CAPACITY", &["64Mi"; 5])?;
    }
    // The claims are older than the pods.
    let ages = |kind| -> Result<Vec<u64>> {
        let ages = column(table(tables[2], kind)?, "AGE")?;
        ages.into_iter().map(seconds).collect()
    };
    let (pods, claims) = (ages("pod/")?, ages("persistentvolumeclaim/")?);
    ensure!(pods.iter().max() < claims.iter().min(), "{}", tables[2]);

    let histories = all(said, "cat persistent/history");
    let (first, again) = histories.split_at(2);
    ensure!(again == first.repeat(2), "{histories:?}");
    let mut lines: Vec<_> = first.iter().flat_map(|history| history.lines()).collect();
    lines.sort_unstable();
    ensure!(lines == ["1 / 8 = 0.125", "3 + 4 = 7", "6 * 7 = 42"], "{lines:?}");
    ensure!(first.iter().all(|history| !history.is_empty()), "{histories:?}");

    let page = all(said, "--dump-dom")[0];
    ensure!(
        page.contains("Calculated by app-php-0:") && page.contains(first[0].trim()),
        "{page}"
    );
    picture()?;

    let times = all(said, "head -2 persistent/visits").concat();
    ensure!(times.lines().count() == 6, "{times}");
    Ok(())
}

/// The picture of the page, which is kept in `docs` when documents are written.
fn picture() -> Result<()> {
    let path = root().join("target/app-php.png");
    let bytes = fs::read(&path).with_context(|| format!("read {path:?}"))?;
    ensure!(bytes.starts_with(b"\x89PNG"), "{path:?} is no picture");
    ensure!(bytes.len() < 100_000, "{path:?} has {} bytes", bytes.len());
    if is_writing() {
        fs::copy(&path, root().join("docs/app-php.png")).context("keep the picture")?;
    }
    Ok(())
}
