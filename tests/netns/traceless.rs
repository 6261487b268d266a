//! What is left of a laboratory with everything in it: nothing.

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

use lb_tests::{leftovers::Instance, namespace::NAMESPACES, traffic::Protocol};

use crate::scene::{MATRIX, Scene};

/// Namespaces, pins and directories of an instance.
fn traces(instance: Instance) -> Vec<PathBuf> {
    [NAMESPACES.into(), "/sys/fs/bpf".into(), std::env::temp_dir()]
        .iter()
        .flat_map(|place: &PathBuf| fs::read_dir(place).expect("a directory"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(Instance::of_name) == Some(instance)
        })
        .collect()
}

fn is_running(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[test]
fn nothing_of_a_scene_outlives_it() {
    for panics in [false, true] {
        let scene = Scene::start(MATRIX[1]);
        scene.answered(Protocol::Tcp, 10);
        let instance = scene.lab.instance();
        let agent = scene.gateway.process().expect("an agent");
        assert!(
            traces(instance).len() > 3 && is_running(agent),
            "there is something to be left"
        );
        let end = panic::catch_unwind(panic::AssertUnwindSafe(move || {
            let _scene = scene;
            assert!(!panics, "on purpose");
        }));
        assert_eq!(end.is_err(), panics);
        assert_eq!(traces(instance), Vec::<PathBuf>::new());
        assert!(!is_running(agent));
    }
}
