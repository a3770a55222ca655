//! What the comparison with CPython does not show: refusals and their words, limits, laziness.

use super::*;

fn reading(metadata: &str) -> Reading<'_> {
    Reading { sensor_name: "kitchen", timestamp: 1_717_156_800.0, value: 85.5, unit: "C", metadata }
}

fn refusal(text: &str) -> String {
    match Expression::compile(text) {
        Ok(_) => panic!("{text:?} compiles"),
        Err(error) => error.to_string(),
    }
}

fn outcome(text: &str, metadata: &str) -> String {
    match Expression::compile(text).unwrap().evaluate(&Context::new(reading(metadata))) {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.class.name().to_owned(),
    }
}

#[test]
fn a_refusal_names_the_column_and_what_is_available() {
    let table = [
        ("open('x')", "column 1: 'open' is not available; the builtins are abs, max, min, sum, len"),
        ("1 + foo", "column 5: 'foo' is not available"),
        ("value > 1", "column 1: 'value' is not available; write ctx.value"),
        ("ctx", "column 1: 'ctx' cannot stand alone; ctx has value, sensor_name"),
        ("ctx.raw > 1", "column 5: 'ctx.raw' is not available; ctx has value"),
        ("ctx.__class__", "column 5: 'ctx.__class__' is not available"),
        ("ctx.unit.lower() == 'c'", "column 10: '.lower' is not available; the only method is .get"),
        ("().__class__", "column 4: '.__class__' is not available"),
        ("ctx.metadata.get", "column 17: '.get' is a method; write .get(key)"),
        ("ctx.metadata.get()", "column 14: '.get' takes a key"),
        ("__import__('os')", "column 1: '__import__' is not available"),
        ("lambda: 1", "column 1: 'lambda' is not available"),
        ("max(lambda: 1)", "column 5: 'lambda' is not available"),
        ("[x for x in (1,)]", "column 4: comprehensions are not available"),
        ("[1 for x in (1,)]", "column 4: comprehensions are not available"),
        ("(y := 1)", "column 4: ':=' assigns"),
        ("round(number=1.5)", "column 13: '=' assigns, which is not available"),
        ("(1 := 2)", "column 4: ':=' assigns"),
        ("ctx.value = 1", "column 11: '=' assigns, which is not available; use == to compare"),
        ("ctx.value += 1", "column 11: '+=' assigns"),
        ("f'{ctx.value}'", "column 1: formatted strings are not available"),
        ("b'x'", "column 1: bytes are not available"),
        ("import os", "column 1: 'import' begins a statement"),
        ("ctx.value > 1 && True", "column 16: expected a value, found '&'"),
        ("!True", "column 1: '!' is not part of an expression; Python has 'not'"),
        ("true", "column 1: 'true' is not available; Python writes True"),
        ("abs", "column 4: 'abs' is a function; write abs(...)"),
        ("abs()", "column 1: 0 arguments were given; 'abs' takes one number"),
        ("max([1], key=abs)", "column 17: 'abs' is a function"),
        ("max([1], key=1)", "column 1: key= is not available here; 'max' takes values"),
        ("max(*[1])", "column 5: '*' cannot stand here: unpacking is not available"),
        ("(1)(2)", "column 4: only the builtins and .get can be called"),
        ("ctx.value is 1", "column 11: 'is' is available with None, True and False only"),
        ("{1, 2}", "column 1: a set can only stand to the right of 'in'"),
        ("1 in {1} == True", "column 6: a set can only stand to the right of 'in'"),
        ("1j", "column 1: complex numbers are not available"),
        ("012", "column 1: an integer does not start with 0"),
        ("1abc", "column 1: \"abc\" may not follow a number"),
        ("'abc", "column 1: the string does not end"),
        ("'größe' + 'a\\N{DASH}'", "column 13: characters by name are not available"),
        ("'\\ud800'", "column 2: \\ud800 is no character"),
        ("1 +", "column 4: expected a value, found the end"),
        ("(1", "column 3: expected ')', found the end"),
        ("1 2", "column 3: expected the end of the expression, found a number"),
        ("1 if 2", "column 7: expected 'else', found the end"),
        ("", "column 1: the expression is empty"),
        ("  \n ", "column 1: the expression is empty"),
        ("\n  nope", "column 4: 'nope' is not available"),
        ("1\n+ 2", "column 2: the line ends here; put brackets around"),
        ("1 @ 2", "column 3: '@' is not available"),
        ("ctx.value > 1; 2", "column 14: ';' is not available"),
        ("...", "column 1: '...' is not available"),
        ("1 == not 2", "column 6: 'not' needs brackets around it here"),
        ("(1, 2)[0:1, 1]", "column 11: expected ']', found ','"),
        ("1 \0", "column 3: '\\0' is not part of an expression"),
        ("340282366920938463463374607431768211456", "column 1: the integer needs more than 128 bits"),
    ];
    for (text, expected) in table {
        let found = refusal(text);
        assert!(found.starts_with(expected), "{text:?}\n  expected {expected}\n  found    {found}");
    }
}

#[test]
fn hostile_nesting_ends_in_a_refusal() {
    let hostile = [
        ("(", 64),
        ("[", 64),
        ("{1:", 64),
        ("-", 64),
        ("not ", 64),
        ("~", 64),
        ("1**", 64),
        ("1 if 1 else ", 64),
        ("max(", 64),
        ("ctx.metadata[", 64),
        ("1+", 64),
        ("'a'.get(", 64),
    ];
    for (unit, levels) in hostile {
        let deep = unit.repeat(4000 / unit.len()) + "1";
        assert!(refusal(&deep).contains("nested deeper than 64 levels"), "{unit:?}: {}", refusal(&deep));
        let long = unit.repeat(10_000);
        assert!(refusal(&long).contains("the most is 4096"), "{unit:?}");
        let shallow = unit.repeat(levels / 2);
        assert!(!refusal(&shallow).contains("nested"), "{unit:?}");
    }
    let indexed = String::from("ctx.metadata") + &"[0]".repeat(1000);
    assert!(refusal(&indexed).contains("nested deeper"));
    let called = String::from("ctx.metadata") + &".get(0)".repeat(500);
    assert!(refusal(&called).contains("nested deeper"));
    let wide = String::from("[") + &"1,".repeat(1100) + "]";
    assert!(refusal(&wide).contains("more than 1024 operands"));
    // As long as an alternative may well be.
    let alternatives = vec!["ctx.value == 1"; 200].join(" or ");
    assert!(Expression::compile(&alternatives).is_ok());
}

#[test]
fn the_deepest_expressions_need_little_stack() {
    let deepest = |open: &str, inner: &str, close: &str| {
        let levels = (1..=DEPTH_MAX).rev().find(|levels| {
            Expression::compile(&(open.repeat(*levels) + inner + &close.repeat(*levels))).is_ok()
        });
        let levels = levels.expect("one level compiles");
        assert!(levels >= DEPTH_MAX / 2 - 1, "{open}: {levels}");
        open.repeat(levels) + inner + &close.repeat(levels)
    };
    let texts = [
        deepest("(", "1", ")"),
        deepest("not ", "1", ""),
        deepest("-", "1", ""),
        deepest("max((", "1", ", 0))"),
        format!("{0}{1} == {0}{1}", "[".repeat(DEPTH_MAX - 2), "]".repeat(DEPTH_MAX - 2)),
        deepest("{1: ", "1", "}"),
        deepest("1 if 0 else ", "1", ""),
        deepest("0 or (", "1", " and 1)"),
    ];
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let thread = small.spawn(move || {
        for text in texts {
            assert!(Expression::compile(&text).unwrap().evaluate(&Context::new(reading("{}"))).is_ok());
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn any_text_compiles_or_is_refused_within_its_columns() {
    let mut rng = fastrand::Rng::with_seed(5);
    let parts =
        ["(", ")", "'", "\\", "ctx", ".", "é", "\u{1F600}", "\0", "\n", "1", "e", "_", "[", ":", " ", "get"];
    for _ in 0..20_000 {
        let text: String = (0..rng.usize(..20)).map(|_| parts[rng.usize(..parts.len())]).collect();
        if let Err(error) = Expression::compile(&text) {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
        }
    }
}

#[test]
fn work_and_memory_of_an_evaluation_are_bounded() {
    let metadata = format!("{{\"list\":[{}0]}}", "0,".repeat(1900));
    let table = [
        ("'a' * 10**9", "Limit"),
        ("[0] * 10**9", "Limit"),
        ("('a' * 16384) + 'b'", "Limit"),
        ("len('a' * 16384)", "Int(16384)"),
        ("(((1,) * 4096) * 1 == (1,) * 4096) and [[0] * 4096] * 16 == [[0] * 4096] * 16", "Limit"),
        ("2 ** 126 - 1 + 2 ** 126", "Int(170141183460469231731687303715884105727)"),
        ("2 ** 127", "OverflowLimit"),
        ("-(2 ** 126) * 2 - 1", "OverflowLimit"),
        ("-(-(2 ** 126) * 2)", "OverflowLimit"),
        ("abs(-(2 ** 126) * 2)", "OverflowLimit"),
        ("-(2 ** 126) * 2 // -1", "OverflowLimit"),
        ("(-(2 ** 126) * 2) % -1", "Int(0)"),
        ("7 ** 7 ** 7", "OverflowLimit"),
        ("1 << 10 ** 20", "OverflowLimit"),
        ("int(1e300)", "OverflowLimit"),
        ("int('9' * 5000)", "ValueError"),
        ("int('9' * 400)", "OverflowLimit"),
        ("int('٣')", "Unsupported"),
        ("'%s' % 1", "Unsupported"),
    ];
    for (text, expected) in table {
        assert_eq!(outcome(text, "{}"), expected, "{text}");
    }
    let sums = vec!["sum(ctx.metadata['list'])"; 40].join("+");
    assert_eq!(outcome(&sums, &metadata), "Limit");
}

#[test]
fn metadata_is_read_only_when_an_expression_reaches_it_and_then_once() {
    let broken = Context::new(reading("no json"));
    let guarded = Expression::compile("ctx.value > 100 and ctx.metadata['k'] == 1").unwrap();
    assert_eq!(guarded.is_true(&broken), Ok(false));
    assert!(broken.metadata.get().is_none());

    let ctx = Context::new(reading(r#"{"k":1}"#));
    let reached = Expression::compile("ctx.metadata['k'] == 1 and len(ctx.metadata) == 1").unwrap();
    assert_eq!(reached.is_true(&ctx), Ok(true));
    let first = Rc::as_ptr(ctx.metadata.get().unwrap().as_ref().unwrap());
    assert_eq!(reached.is_true(&ctx), Ok(true));
    assert_eq!(Rc::as_ptr(ctx.metadata.get().unwrap().as_ref().unwrap()), first);
}

#[test]
fn metadata_that_is_no_object_is_a_value_error_and_too_much_of_it_a_limit() {
    let many = format!("{{\"k\":{}{}}}", "[".repeat(70), "]".repeat(70));
    let long = format!("{{\"k\":\"{}\"}}", "x".repeat(METADATA_BYTES_MAX));
    let table = [
        ("", "ValueError"),
        ("[]", "ValueError"),
        ("{}x", "ValueError"),
        ("{\"k\":NaN}", "ValueError"),
        ("{\"k\":01}", "ValueError"),
        ("{\"k\":1.}", "ValueError"),
        ("{\"k\":\"\\ud800\"}", "ValueError"),
        ("{\"k\":\"\\ud800\\u0041\"}", "ValueError"),
        ("{\"k\":\"\u{1}\"}", "ValueError"),
        ("{\"k\":\"\\u00e\"}", "ValueError"),
        ("{\"k\":1,}", "ValueError"),
        ("{\"k\"", "ValueError"),
        ("{\"k\":\"é\\", "ValueError"),
        ("{\"k\":\"\\u00\u{e9}\"}", "ValueError"),
        (&many, "Limit"),
        (&long, "Limit"),
        ("{\"k\":340282366920938463463374607431768211456}", "OverflowLimit"),
        (" {\"k\" : 1, \"k\":2} ", "Int(2)"),
        ("{\"k\":-0}", "Int(0)"),
    ];
    for (metadata, expected) in table {
        assert_eq!(outcome("ctx.metadata['k']", metadata), expected, "{metadata}");
    }
}

#[test]
fn an_error_names_its_column_and_no_content() {
    let expression = Expression::compile("1 + 1 and ctx.metadata['secret'] < 'x'").unwrap();
    let ctx = Context::new(reading(r#"{"secret":5}"#));
    let error = expression.evaluate(&ctx).unwrap_err();
    assert_eq!(error.to_string(), "TypeError: '<' does not take int and str (column 34)");
}

#[test]
fn a_multi_line_string_may_hold_an_expression() {
    let expression = Expression::compile("\n  (ctx.value > 85 # warm\n   and ctx.unit == 'C')\n\n").unwrap();
    assert_eq!(expression.is_true(&Context::new(reading("{}"))), Ok(true));
}
