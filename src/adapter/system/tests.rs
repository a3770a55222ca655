//! Boards laid out in a folder.

use std::io::Write as _;

use super::super::test_support;
use super::*;

struct Board(tempfile::TempDir);

impl Board {
    fn new(files: &[(&str, &str)]) -> Self {
        let board = Self(tempfile::tempdir().unwrap());
        for (path, content) in files {
            board.write(path, content);
        }
        board
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_dir_all(self.0.path().join(path)).unwrap();
    }

    fn sampler(&self, kind: Kind) -> Sampler {
        let root = self.0.path().to_owned();
        let device = Watched { name: "b".to_owned(), kind, root, mount: PathBuf::from("/") };
        Sampler::new(&[device], kind == Kind::W1)
    }

    fn readings(&self, kind: Kind) -> Vec<(String, f64, String)> {
        test_support::readings_of(&self.sampler(kind).read().0)
    }

    fn source(&self, kind: &str) -> super::super::Source {
        let root = self.0.path().display();
        let toml = format!(
            "[ingest.system]\nroot = '{root}'\n[[sensors.devices]]\nname = 'b'\ningest_type = 'system'\nsensor_type = '{kind}'"
        );
        test_support::sources(&toml).unwrap().remove(0)
    }
}

fn expected(readings: &[(&str, f64, &str)]) -> Vec<(String, f64, String)> {
    readings.iter().map(|(name, value, unit)| (format!("b.{name}"), *value, (*unit).to_owned())).collect()
}

#[test]
fn the_sample_is_valid_and_an_unknown_kind_is_refused() {
    assert_eq!(test_support::sources(SAMPLE).unwrap().len(), 1);
    let problems = test_support::sources(&SAMPLE.replace("\"all\"", "\"termal\"")).unwrap_err();
    assert!(problems[0].contains("did you mean 'thermal'"), "{problems:?}");
}

#[test]
fn cpu_is_since_boot_at_first_and_since_the_last_reading_then() {
    let board = Board::new(&[("proc/stat", "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n")]);
    let mut sampler = board.sampler(Kind::Cpu);
    let mut read = || test_support::readings_of(&sampler.read().0);
    assert_eq!(read(), expected(&[("cpu_percent", 20.0, "%")]));
    assert_eq!(read(), []);
    board.write("proc/stat", "cpu  175 0 100 700 125 0 0 0 50 0\n");
    assert_eq!(read(), expected(&[("cpu_percent", 75.0, "%")]));
}

#[test]
fn proc_files_are_read() {
    let board = Board::new(&[
        ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n"),
        ("proc/loadavg", "0.50 1.25 2.00 1/100 999\n"),
        ("proc/uptime", "12.5 20.0\n"),
        ("proc/net/dev", "Inter-| Receive\n face |bytes\n    lo: 1 2\n  eth0:  10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n"),
    ]);
    let memory = [("memory_percent", 75.0, "%"), ("memory_available", 256_000.0, "B")];
    assert_eq!(board.readings(Kind::Memory), expected(&memory));
    let load = [("load_1m", 0.5, ""), ("load_5m", 1.25, ""), ("load_15m", 2.0, "")];
    assert_eq!(board.readings(Kind::Load), expected(&load));
    assert_eq!(board.readings(Kind::Uptime), expected(&[("uptime", 12.5, "s")]));
    let network = [("network.eth0.received", 10.0, "B"), ("network.eth0.sent", 20.0, "B")];
    assert_eq!(board.readings(Kind::Network), expected(&network));
    let disk = board.readings(Kind::Disk);
    assert_eq!((disk[0].0.as_str(), disk[1].0.as_str()), ("b.disk_percent", "b.disk_available"));
    assert!((0.0..=100.0).contains(&disk[0].1) && disk[1].1 >= 0.0);
}

#[test]
fn thermal_zones_of_the_same_type_are_told_apart() {
    let board = Board::new(&[
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
        ("sys/class/thermal/thermal_zone2/type", "gpu (left)\n"),
        ("sys/class/thermal/thermal_zone2/temp", "1000\n"),
        ("sys/class/thermal/thermal_zone10/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone10/temp", "-500\n"),
        ("sys/class/thermal/cooling_device0/type", "fan\n"),
    ]);
    let zones = [
        ("thermal.cpu-thermal", 48.312, "C"),
        ("thermal.gpu__left_", 1.0, "C"),
        ("thermal.cpu-thermal.2", -0.5, "C"),
    ];
    assert_eq!(board.readings(Kind::Thermal), expected(&zones));
}

#[test]
fn hwmon_inputs_have_their_labels_and_units() {
    let dir = |file: &str| format!("sys/class/hwmon/hwmon0/{file}");
    let files = [
        ("name", "nvme"),
        ("temp1_input", "40850"),
        ("temp1_label", "Composite"),
        ("temp1_max", "90000"),
        ("in0_input", "3300"),
        ("fan1_input", "1200"),
        ("curr1_input", "250"),
        ("power1_input", "5000000"),
    ];
    let board = Board::new(&[("sys/class/hwmon/hwmon1/name", "nvme"), ("sys/class/hwmon/hwmon1/temp1_input", "1")]);
    files.iter().for_each(|(file, content)| board.write(&dir(file), content));
    let inputs = [
        ("hwmon.nvme.in0", 3.3, "V"),
        ("hwmon.nvme.fan1", 1200.0, "rpm"),
        ("hwmon.nvme.curr1", 0.25, "A"),
        ("hwmon.nvme.Composite", 40.85, "C"),
        ("hwmon.nvme.power1", 5.0, "W"),
        ("hwmon.nvme.2.temp1", 0.001, "C"),
    ];
    assert_eq!(board.readings(Kind::Hwmon), expected(&inputs));
}

#[test]
fn thermometers_are_believed_only_when_they_have_measured() {
    let crc = |word: &str, t: &str| format!("50 01 4b 46 : crc=b5 {word}\n50 01 4b 46 t={t}\n");
    let dir = "sys/bus/w1/devices";
    let board = Board::new(&[
        (&format!("{dir}/28-01/temperature"), "21500\n"),
        (&format!("{dir}/28-02/w1_slave"), &crc("YES", "-1250")),
        (&format!("{dir}/28-03/w1_slave"), &crc("NO", "21000")),
        (&format!("{dir}/28-04/temperature"), "85000\n"),
        (&format!("{dir}/28-05/temperature"), ""),
        (&format!("{dir}/w1_bus_master1/w1_master_name"), "x"),
    ]);
    let mut sampler = board.sampler(Kind::W1);
    let (batch, silent) = sampler.read();
    let good = [("w1.28-01", 21.5, "C"), ("w1.28-02", -1.25, "C")];
    assert_eq!(test_support::readings_of(&batch), expected(&good));
    let refused: Vec<_> = batch.refusals().map(|(_, sensor)| sensor.to_owned()).collect();
    assert_eq!(refused, ["b.w1.28-03", "b.w1.28-04", "b.w1.28-05"]);
    assert!(silent.is_empty());
    assert_eq!(sampler.health.failing().len(), 3);
}

#[test]
fn iio_channels_are_scaled_and_processed_ones_preferred() {
    let dir = |file: &str| format!("sys/bus/iio/devices/iio:device0/{file}");
    let board = Board::new(&[]);
    for (file, content) in [
        ("name", "bme280"),
        ("in_temp_input", "21500"),
        ("in_temp_raw", "1"),
        ("in_pressure_input", "101.325"),
        ("in_voltage0_raw", "1000"),
        ("in_voltage_scale", "0.5"),
        ("in_voltage0_offset", "-200"),
        ("in_accel_x_raw", "7"),
        ("in_humidityrelative_input", "45000"),
    ] {
        board.write(&dir(file), content);
    }
    let channels = [
        ("iio.bme280.temp", 21.5, "C"),
        ("iio.bme280.accel_x", 7.0, "m/s2"),
        ("iio.bme280.voltage0", 0.4, "V"),
        ("iio.bme280.pressure", 101.325, "kPa"),
        ("iio.bme280.humidityrelative", 45.0, "%"),
    ];
    assert_eq!(board.readings(Kind::Iio), expected(&channels));
}

#[test]
fn a_failing_or_unplugged_sensor_is_noted_until_it_is_back_and_others_go_on() {
    let zone = |number: u32, file: &str| format!("sys/class/thermal/thermal_zone{number}/{file}");
    let board = Board::new(&[]);
    for number in 0..3 {
        board.write(&zone(number, "type"), &format!("z{number}"));
        board.write(&zone(number, "temp"), "1000");
    }
    let mut sampler = board.sampler(Kind::Thermal);
    sampler.read();
    assert_eq!(sampler.health.failing(), []);
    board.write(&zone(1, "temp"), "oops");
    board.remove("sys/class/thermal/thermal_zone2");
    for _ in 0..2 {
        assert_eq!(sampler.read().0.readings().len(), 1);
    }
    assert_eq!(sampler.health.failing(), [("b.thermal.z1", 2), ("b.thermal.z2", 2)]);
    board.write(&zone(1, "temp"), "1000");
    board.write(&zone(2, "type"), "z2");
    board.write(&zone(2, "temp"), "1000");
    assert_eq!(sampler.read().0.readings().len(), 3);
    assert_eq!(sampler.health.failing(), []);
}

#[test]
fn more_sensors_than_the_limit_are_left_out() {
    let board = Board::new(&[]);
    for number in 0..300 {
        board.write(&format!("sys/class/thermal/thermal_zone{number}/temp"), "1000");
    }
    assert_eq!(board.readings(Kind::Thermal).len(), 256);
}

#[tokio::test]
async fn once_reads_this_very_machine() {
    let (mut intake, _received) = test_support::intake(1);
    intake.once = true;
    let source = test_support::sources(SAMPLE).unwrap().remove(0);
    let (result, batches) = test_support::run_to_end(&source, intake).await;
    result.unwrap();
    let names: Vec<_> = batches.iter().flat_map(test_support::readings_of).map(|r| r.0).collect();
    for name in ["board.cpu_percent", "board.memory_percent", "board.disk_percent", "board.uptime"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
}

#[tokio::test]
async fn once_fails_when_a_device_gave_nothing() {
    for kind in ["w1", "thermal", "cpu"] {
        let (mut intake, _received) = test_support::intake(1);
        intake.once = true;
        let (result, _) = test_support::run_to_end(&Board::new(&[]).source(kind), intake).await;
        assert_eq!(result.unwrap_err().to_string(), "b: no value could be read", "{kind}");
    }
}

#[tokio::test]
async fn polling_goes_on_until_the_stop() {
    let board = Board::new(&[("proc/uptime", "1 2"), ("sys/bus/w1/devices/28-1/temperature", "1000")]);
    let source = board.source("all");
    let (intake, mut received) = test_support::intake(1);
    let consume = async {
        let mut names = std::collections::BTreeMap::new();
        while names.get("b.uptime").is_none_or(|count| *count < 3) || !names.contains_key("b.w1.28-1") {
            for reading in test_support::readings_of(&test_support::next(&mut received).await) {
                *names.entry(reading.0).or_insert(0) += 1;
            }
        }
        intake.stop.cancel();
        received.close();
    };
    let (result, ()) = test_support::within(async { tokio::join!(source.run(&intake), consume) }).await;
    assert!(matches!(result, Ok(()) | Err(Error::Closed)));
}
