//! `hostPath` types: what must be there, and what is made ("hostPath volume types").

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

/// Checks a path of the host, or makes it where its type says so. The error is for people.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let metadata = fs::metadata(path).ok();
    let is =
        |test: fn(&fs::FileType) -> bool| metadata.as_ref().is_some_and(|found| test(&found.file_type()));
    let shown = path.display();
    let made = |result: std::io::Result<()>| result.map_err(|error| format!("make {shown}: {error}"));
    let fits = match kind {
        "" => {
            // Like other runtimes, an absent path becomes a directory.
            if metadata.is_none() {
                made(fs::create_dir_all(path))?;
            }
            true
        }
        "DirectoryOrCreate" if metadata.is_none() => {
            made(fs::create_dir_all(path))?;
            made(fs::set_permissions(path, fs::Permissions::from_mode(0o755)))?;
            true
        }
        "FileOrCreate" if metadata.is_none() => {
            made(fs::File::create(path).map(|_| ()))?;
            true
        }
        "Directory" | "DirectoryOrCreate" => is(fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(fs::FileType::is_file),
        "Socket" => is(|found| found.is_socket()),
        "CharDevice" => is(|found| found.is_char_device()),
        "BlockDevice" => is(|found| found.is_block_device()),
        other => {
            return Err(format!(
                "hostPath type check failed: {other} is not a type of hostPath"
            ));
        }
    };
    let what = match kind {
        "Directory" | "DirectoryOrCreate" => "directory",
        "File" | "FileOrCreate" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        _ => "block device",
    };
    if fits {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {shown} is not a {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, made) = (dir.path().join("file"), dir.path().join("a/b"));
        fs::write(&file, "").expect("a file");
        for (path, kind, fits) in [
            (file.as_path(), "File", true),
            (&file, "Directory", false),
            (dir.path(), "Directory", true),
            (&made, "Directory", false),
            (&made, "DirectoryOrCreate", true),
            (&made, "Directory", true),
            (&dir.path().join("new"), "FileOrCreate", true),
            (&dir.path().join("new"), "Socket", false),
            (&file, "Odd", false),
        ] {
            assert_eq!(check(path, kind).is_ok(), fits, "{} {kind}", path.display());
        }
        let error = check(&file, "Directory").expect_err("a file is no directory");
        assert_eq!(
            error,
            format!(
                "hostPath type check failed: {} is not a directory",
                file.display()
            )
        );
    }
}
