//! `examples/app-python-helm`: each replica counts on its own disk.

use anyhow::{Result, ensure};
use stead_tests::console::Said;

use crate::{all, check_column, column, numbers};

pub(crate) fn check(said: &[Said]) -> Result<()> {
    let counts = all(said, "cat storage/visits").concat();
    // Those of the three pods: 16 visits; then after the release was installed again, and after the cluster was down.
    let counts = numbers(&counts)?;
    ensure!(counts == [5, 7, 4].repeat(3), "{counts:?}");
    let tables = all(said, "kubectl get pods");
    ensure!(
        tables.len() == 3 && tables[1].starts_with("No resources found"),
        "{tables:?}"
    );
    for table in [tables[0], tables[2]] {
        check_column(table, "READY", &["1/1"; 3])?;
        check_column(table, "STATUS", &["Running"; 3])?;
        let names = column(table, "NAME")?;
        for (ordinal, name) in names.iter().enumerate() {
            let expected = format!("-app-python-helm-{ordinal}");
            ensure!(
                name.starts_with("chart-") && name.ends_with(&expected),
                "{names:?}"
            );
        }
    }
    for table in all(said, "kubectl get pvc") {
        check_column(table, "STATUS", &["Bound"; 3])?;
        check_column(table, "CAPACITY", &["100Mi"; 3])?;
        check_column(table, "ACCESS MODES", &["RWO"; 3])?;
    }
    Ok(())
}
