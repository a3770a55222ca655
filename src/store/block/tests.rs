use super::*;

fn database() -> Connection {
    super::super::schema::in_memory().unwrap()
}

/// What is wrong with a block that begins at 1 and was written as three lines.
fn damage_of(change: &str) -> String {
    let (db, mut codec) = (database(), Codec::new().unwrap());
    let data = codec.compress(b"{}\n{}\n{}\n").unwrap();
    db.execute("INSERT INTO block_logs VALUES (1, 3, 0, 0, 0, 0, 9, NULL, ?1)", [data]).unwrap();
    db.execute(&format!("UPDATE block_logs SET {change}"), []).unwrap();
    match at_or_after(&db, &mut codec, Lane::Logs, 1) {
        Ok(block) => panic!("{change}: {:?}", block.map(|block| block.lines)),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_block_that_does_not_hold_what_it_says_is_damaged() {
    for (change, expected) in [
        ("count = 4", "it says 4 items and holds 3 lines"),
        ("count = 2", "it says 2 items and holds 3 lines"),
        ("count = 0", "it says 0 items from number 1 on"),
        ("count = -3", "it says -3 items from number 1 on"),
        ("count = 9223372036854775807", "it says 9223372036854775807 items"),
        ("first = -1", "it says 3 items from number -1 on"),
        ("count = 'x'", "its column count holds Text"),
        ("count = 1.5", "its column count holds Real"),
        ("data = 'x'", "its column data holds Text"),
        ("raw_bytes = 8", "is damaged"),
        ("raw_bytes = 10", "it claims 10 bytes and holds 9"),
        ("raw_bytes = -1", "it claims 18446744073709551615 bytes"),
    ] {
        let found = damage_of(change);
        assert!(found.starts_with("a block is damaged: ") && found.contains(expected), "{change}: {found}");
    }
}

#[test]
fn a_block_that_is_longer_than_any_is_not_even_read() {
    let db = database();
    let mut codec = Codec::new().unwrap();
    let longest = zstd::zstd_safe::compress_bound(BLOCK_BYTES_MAX);
    for (bytes, detail) in
        [(longest, "a block is damaged: Error"), (longest + 1, "its column data holds Null")]
    {
        db.execute("DELETE FROM block_logs", []).unwrap();
        db.execute("INSERT INTO block_logs VALUES (1, 1, 0, 0, 0, 0, 1, NULL, zeroblob(?1))", [bytes as i64])
            .unwrap();
        let Err(error) = at_or_after(&db, &mut codec, Lane::Logs, 1) else { panic!("{bytes} bytes") };
        assert!(error.to_string().contains(detail), "{error}");
    }
}

/// 200,000 lines of 16 numbers would take 50 MB before the first is written.
#[test]
fn columns_of_more_than_a_piece_are_not_taken_apart() {
    let mut codec = Codec::new().unwrap();
    let columns = [&[columns::MARK, 1][..], &[0; 16], b"\n\xc0\x9a\x0c", &[0; 200_000]].concat();
    let data = zstd::bulk::compress(&columns, ZSTD_LEVEL).unwrap();
    let damage = |raw_bytes, codec: &mut Codec| codec.decompress(&data, raw_bytes).unwrap_err().to_string();
    assert!(damage(BLOCK_BYTES_MAX, &mut codec).contains("its columns claim 4194304 bytes"));
    assert!(damage(PIECE_BYTES_MAX, &mut codec).contains("its lines do not fit its size"));

    let long = [&vec![b'1'; PIECE_BYTES_MAX][..], b", 2, 2\n"].concat();
    let data = codec.compress(&long).unwrap();
    assert_eq!(codec.decompress(&data, long.len()).unwrap(), long);
}
