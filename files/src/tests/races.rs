//! What others do while a save is made, and what a crash leaves of it.

use super::*;

#[test]
fn what_is_written_between_the_check_and_the_last_step_is_not_written_over() {
    let place = place();
    for named in [false, true] {
        for (before, over) in [(None, nothing_known()), (Some("one"), known("one"))] {
            if let Some(before) = before {
                std::fs::write(place.at("a.md"), before).unwrap();
            }
            let mut prepared = place.prepare("a.md", "new", over).unwrap();
            prepared.make_named(named);
            std::fs::write(place.at("a.md"), "theirs").unwrap();
            assert!(matches!(prepared.finish(), Err(FileError::Diverged(Found::File(_)))), "{before:?}");
            assert_eq!(std::fs::read(place.at("a.md")).unwrap(), b"theirs", "{before:?}");
            std::fs::remove_file(place.at("a.md")).unwrap();
            assert_eq!(stray(place.inside.path()), Vec::<String>::new());
        }
        std::fs::write(place.at("a.md"), "one").unwrap();
        let mut prepared = place.prepare("a.md", "new", known("one")).unwrap();
        prepared.make_named(named);
        std::fs::remove_file(place.at("a.md")).unwrap();
        assert!(matches!(prepared.finish(), Err(FileError::Diverged(Found::Nothing))), "it was removed");
        assert!(!place.at("a.md").exists());
    }
}

#[test]
fn who_else_writes_while_a_save_takes_its_last_step_finds_their_file_there_in_the_end() {
    let place = place();
    let (file, theirs) = (place.at("a.md"), place.at("theirs.tmp"));
    let ((begin, begun), (end, ended)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let (rounds, mut saved) = (1_500_u32, 0);
    std::thread::scope(|threads| {
        let (file, theirs) = (&file, &theirs);
        threads.spawn(move || {
            for round in begun {
                std::fs::write(theirs, "theirs").unwrap();
                // Sooner or later, all over the step.
                (0..(round * 7_919) % 30_000).for_each(|turn| {
                    std::hint::black_box(turn);
                });
                std::fs::rename(theirs, file).unwrap();
                end.send(()).unwrap();
            }
        });
        let begin = begin;
        for round in 0..rounds {
            std::fs::write(file, "one").unwrap();
            let prepared = place.prepare("a.md", "mine", known("one")).unwrap();
            begin.send(round).unwrap();
            saved += u32::from(is_done(&prepared.finish()));
            ended.recv().unwrap();
            assert_eq!(std::fs::read_to_string(file).unwrap(), "theirs", "after {saved} saves that were done");
        }
    });
    // Which is first is chance: without a look at what was taken away this fails within 300 rounds here.
    eprintln!("{saved} of {rounds} saves were done");
    assert_eq!(stray(place.inside.path()), Vec::<String>::new());
}

#[test]
fn what_a_crash_took_away_from_somebody_else_goes_back() {
    let place = place();
    let (file, left) = (place.at("a.md"), place.at(".holdfast-default.s1-1"));
    let part = place.at(".holdfast-default.s1-2.part");
    let tidy = || save::tidy(&place.mount, &tag("s1"), "a.md", &known_of("old", &["mine"]), MAX).unwrap();
    for (there, taken, after) in [
        // Killed right behind the exchange: what was taken is known, or theirs.
        (Some("mine"), "old", Some("mine")),
        (Some("mine"), "theirs", Some("theirs")),
        // They went on writing, or removed it: what was taken was written over.
        (Some("theirs too"), "theirs", Some("theirs too")),
        (None, "theirs", None),
        // Killed before it.
        (Some("old"), "mine", Some("old")),
        (Some("theirs"), "mine", Some("theirs")),
    ] {
        std::fs::remove_file(&file).ok();
        if let Some(there) = there {
            std::fs::write(&file, there).unwrap();
        }
        std::fs::write(&left, taken).unwrap();
        std::fs::write(&part, "mi").unwrap();
        tidy();
        let found = std::fs::read_to_string(&file).ok();
        assert_eq!(found.as_deref(), after, "{there:?} and {taken}");
        assert_eq!(stray(place.inside.path()), Vec::<String>::new());
    }
}

/// Swaps `path` between a folder and a link to the outside, or a file and a link to it, until told to stop.
fn swap(path: &Path, target: &Path, spare: &Path, stop: &AtomicBool) {
    let link = spare.with_extension("link");
    symlink(target, &link).unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Both are there at every moment, under one name or the other.
        rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &link, rustix::fs::RenameFlags::EXCHANGE)
            .unwrap();
    }
}

/// Tells the other threads to stop when this one does, however it does.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_link_that_is_swapped_in_during_open_and_save_leads_nowhere() {
    let place = place();
    std::fs::create_dir(place.at("folder")).unwrap();
    std::fs::write(place.at("folder/secret.md"), "mine").unwrap();
    std::fs::write(place.at("file.md"), "mine").unwrap();
    let stop = AtomicBool::new(false);
    let (mut reads, mut saves, mut refused) = (0, 0, 0);
    std::thread::scope(|threads| {
        let (outside, secret) = (place.outside.path().to_owned(), place.outside.path().join("secret.md"));
        let (place, stop) = (&place, &stop);
        threads.spawn(move || swap(&place.at("folder"), &outside, &place.at("spare1"), stop));
        threads.spawn(move || swap(&place.at("file.md"), &secret, &place.at("spare2"), stop));
        let _stop = StopAtEnd(stop);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        let mut rounds = 0;
        while std::time::Instant::now() < end && rounds < 20_000 {
            rounds += 1;
            for path in ["folder/secret.md", "file.md"] {
                match place.read(path) {
                    Ok(Some(text)) => {
                        assert_ne!(text, "secret", "{path} led outside");
                        reads += 1;
                    }
                    Ok(None) | Err(_) => refused += 1,
                }
                match place.save(path, "mine", known("mine")) {
                    Ok(_) => saves += 1,
                    Err(_) => refused += 1,
                }
            }
        }
    });
    place.assert_outside_is_as_it_was();
    assert!(reads > 0 && saves > 0 && refused > 0, "{reads} reads, {saves} saves and {refused} refusals are no race");
}
