//! What expressions give, what they cost, and that hostile ones do no harm.
//!
//! Method: a table of expressions with their results over one declared object;
//! costs are compared with the numbers the reference implementation gives.

use std::{sync::Arc, time::Instant};

use serde_json::{Value as Json, json};
use skiff_cel::{Binding, Declaration, Env, Program, Type, Value, limits};

fn schema() -> Json {
    json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer"}, "ratio": {"type": "number"}, "name": {"type": "string", "maxLength": 20},
        "color": {"type": "string", "enum": ["red", "blue"]},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "ports": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "percent": {"x-kubernetes-int-or-string": true}, "x-dash": {"type": "string"},
        "when": {"type": "string", "format": "date-time"}, "wait": {"type": "string", "format": "duration"},
        "maybe": {"type": "string", "nullable": true}, "namespace": {"type": "string"},
        "blob": {"type": "string", "format": "byte"}}}}})
}

fn object() -> Json {
    json!({"apiVersion": "e/v1", "kind": "E", "metadata": {"name": "n"}, "spec": {
        "size": 3, "ratio": 2, "name": "Ünïx", "color": "red", "tags": ["a", "b"], "labels": {"k": "v", "l": "w"},
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}], "percent": "50%", "x-dash": "d",
        "when": "2024-02-29T10:11:12Z", "wait": "90s", "maybe": null, "namespace": "ns", "blob": "aGk="}})
}

fn env() -> Env {
    let declaration = Arc::new(Declaration::of_schema(&schema(), true, "self").unwrap());
    Env::default().with("self", Arc::clone(&declaration)).with_type("oldSelf", Type::optional(declaration.ty.clone()))
}

/// The result as text, or `! message`; errors of compiling as `? message`.
fn run(source: &str) -> String {
    let program = match Program::compile(source, &env()) {
        Ok(program) => program,
        Err(issues) => return format!("? {}", issues.list()[0].message),
    };
    let object = object();
    let declaration = Declaration::of_schema(&schema(), true, "self").unwrap();
    let bindings: [Binding<'_>; 2] = [Value::typed(&object, &declaration.ty).into(), Value::Optional(None).into()];
    match program.evaluate(&bindings, limits::CALL_COST_MAX).result {
        Ok(value) => value.to_json().map_or_else(|fault| format!("! {fault}"), |json| json.to_string()),
        Err(fault) => format!("! {fault}"),
    }
}

fn all(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(source, wanted)| {
            let got = run(source);
            (got != *wanted).then(|| format!("{source}\n  wanted {wanted}\n  got    {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fields_have_their_declared_types() {
    all(&[
        ("self.spec.size + 1", "4"),
        ("self.spec.ratio * 1.5", "3.0"),
        ("self.metadata.name", "\"n\""),
        ("self.spec.x__dash__dash", "\"d\""),
        ("self.spec.__namespace__", "\"ns\""),
        ("self.spec.when.getFullYear()", "2024"),
        ("self.spec.when.getDayOfYear()", "59"),
        ("self.spec.when + self.spec.wait == timestamp('2024-02-29T10:12:42Z')", "true"),
        ("self.spec.wait.getMinutes()", "1"),
        ("self.spec.blob == b'hi'", "true"),
        ("has(self.spec.maybe)", "true"),
        ("dyn(self.spec.maybe) == null", "true"),
        ("has(self.spec.size) && !has(self.metadata.generateName)", "true"),
        ("type(self.spec.percent) == string ? self.spec.percent.endsWith('%') : self.spec.percent < 5", "true"),
        ("self.spec.labels['k'] + self.spec.labels.l", "\"vw\""),
        ("self.spec.labels.all(k, k != 'x')", "true"),
        ("self.spec.nothing", "? undefined field 'nothing'"),
        ("self.spec.size == 'a'", "? found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.spec.name == null", "? found no matching overload for '_==_' applied to '(string, null)'"),
        ("other.spec", "? undeclared reference to 'other' (in container '')"),
        ("self.spec.nofn()", "? undeclared reference to 'nofn' (in container '')"),
        ("nofn(1)", "? undeclared reference to 'nofn' (in container '')"),
        ("self.spec.name.startsWith(1)", "? found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("[1, 'a']", "? expected type 'int' but found 'string'"),
        ("self.spec.size.foo", "? type 'int' does not support field selection"),
        (
            "self.spec.size.all(x, true)",
            "? expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("'a'.matches('(')", "? invalid matches argument"),
        ("duration('x')", "? invalid duration argument"),
    ]);
}

#[test]
fn lists_follow_their_list_type() {
    all(&[
        ("self.spec.tags == ['b', 'a']", "true"),
        ("['b', 'a'] == self.spec.tags", "false"),
        ("(self.spec.tags + ['b', 'c']).size()", "3"),
        ("self.spec.ports.filter(p, p.port > 60).map(p, p.name)", "[\"http\"]"),
        ("self.spec.ports.exists_one(p, p.name == 'dns')", "true"),
        ("self.spec.ports.map(p, p.port > 60, p.port).sum()", "80"),
        ("'b' in self.spec.tags && !('z' in self.spec.labels)", "true"),
        ("[1, 2, 3].all(i, v, i + 1 == v)", "true"),
        ("[3, 1, 2].sort()", "[1,2,3]"),
        ("['aa', 'b'].sortBy(s, s.size())", "[\"b\",\"aa\"]"),
        ("[1, 2, 2].distinct().reverse()", "[2,1]"),
        ("[[1], [2, 3]].flatten()", "[1,2,3]"),
        ("[1, 2, 3].slice(1, 3)", "[2,3]"),
        ("lists.range(3)", "[0,1,2]"),
        ("[1, 2].first().orValue(0)", "1"),
        ("[5, 3].min() + [5, 3].max()", "8"),
        ("[1, 2].isSorted() && ![2, 1].isSorted()", "true"),
        ("[1, 2, 1].lastIndexOf(1)", "2"),
        ("[1, 2].includes(2)", "true"),
        ("sets.contains([1, 2], [2]) && sets.intersects([1], [1]) && sets.equivalent([1, 1], [1])", "true"),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v * 2)", "{\"a\":2,\"b\":4}"),
        ("{'a': 1, 'b': 2}.transformList(k, v, v > 1, k)", "[\"b\"]"),
        ("[1, 2].transformMapEntry(i, v, {string(v): i})", "{\"1\":0,\"2\":1}"),
        ("[1][5]", "! index out of bounds: 5"),
        ("{'a': 1}['b']", "! no such key: b"),
        ("{'a': 1}.a", "1"),
        ("[1, 2, 3].exists(x, x / 0 == 1 || x == 3)", "true"),
        ("[1].all(x, x / 0 == 1)", "! division by zero"),
        ("[].map(x, x + 1).size()", "0"),
    ]);
}

#[test]
fn operators_and_conversions() {
    all(&[
        ("1 < 2u && 2u > 1.5 && 1 == int(1.9)", "true"),
        ("dyn(1) == 1.0 && dyn(1) != 'a'", "true"),
        ("9223372036854775807 + 1", "! integer overflow"),
        ("-9223372036854775808 / -1", "! integer overflow"),
        ("5 % 3 - -2", "4"),
        ("5 / 0", "! division by zero"),
        ("false && 1 / 0 == 1 || true", "true"),
        ("1 / 0 == 1 || true", "true"),
        ("double('1e3') + 0.5", "1000.5"),
        ("string(1.0) + string(true) + string(b'x') + string(duration('1h'))", "\"1truex3600s\""),
        ("string(timestamp('2024-01-01T00:00:00Z'))", "\"2024-01-01T00:00:00Z\""),
        ("timestamp('2024-01-01T00:00:00Z').getHours('+05:30')", "5"),
        ("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')", "true"),
        ("int('x')", "! type conversion error from 'string' to 'int'"),
        ("type(1) == int && type([]) == list && type(type(1)) == type", "true"),
        ("cel.bind(x, 2, x * x)", "4"),
        ("cel.bind(x, 1 / 0, true)", "true"),
        ("size('ünï') + size([1]) + size({'a': 1}) + b'ab'.size()", "7"),
        ("oldSelf.hasValue() ? 1 : 2", "2"),
        ("oldSelf.?spec.?size.orValue(7)", "7"),
        ("optional.of(2).optMap(x, x * 3).value()", "6"),
        ("self.?spec.labels[?'nope'].orValue('none')", "\"none\""),
        ("[?optional.none(), 1]", "[1]"),
        ("optional.none().value()", "! optional.none() dereference"),
        ("namespace", "? reserved identifier: namespace"),
    ]);
}

#[test]
fn text_functions_count_characters() {
    all(&[
        ("self.spec.name.charAt(0) + self.spec.name.substring(1, 3)", "\"Ünï\""),
        ("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5"),
        ("'a,b,c'.split(',', 2)", "[\"a\",\"b,c\"]"),
        ("'abc'.split('')", "[\"a\",\"b\",\"c\"]"),
        ("['x', 'y'].join('-')", "\"x-y\""),
        ("'aXbX'.replace('X', '_', 1).upperAscii()", "\"A_BX\""),
        ("' a '.trim()", "\"a\""),
        ("'%s=%d %.2f %x'.format([dyn('a'), 5, 1.005, 255])", "\"a=5 1.00 ff\""),
        ("'abc 123'.find('[0-9]+') + 'a1b2'.findAll('[0-9]').join('')", "\"12312\""),
        ("'abc'.matches('^a.c$')", "true"),
        ("strings.quote('a\"b')", "\"\\\"a\\\\\\\"b\\\"\""),
        ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
        ("'abc'.substring(4)", "! index out of range: 4"),
    ]);
}

#[test]
fn kubernetes_libraries() {
    all(&[
        ("quantity('1.5Gi').isGreaterThan(quantity('1G'))", "true"),
        ("quantity('500m').add(quantity('0.5')).asInteger()", "1"),
        ("quantity('1k') == quantity('1000') && isQuantity('5') && !isQuantity('x')", "true"),
        ("quantity('2').sub(1).sign()", "1"),
        ("ip('::1').isLoopback() && ip('10.0.0.1').family() == 4 && !isIP('1.2.3')", "true"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.2.0.0/16')", "true"),
        ("string(cidr('10.1.2.3/8').masked()) + string(cidr('10.1.2.3/8').ip())", "\"10.0.0.0/810.1.2.3\""),
        ("ip.isCanonical('::1') && !ip.isCanonical('0:0::1')", "true"),
        ("type(ip('::1')) == net.IP", "true"),
        ("url('https://u@example.com:80/a b?x=1&x=2').getHost()", "\"example.com:80\""),
        ("url('https://[::1]:80/a?x=1&x=2').getQuery()['x']", "[\"1\",\"2\"]"),
        ("url('/path').getScheme() + url('http://h:9/p').getPort()", "\"9\""),
        ("isURL('nope')", "false"),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2", "true"),
        ("isSemver('1.2') || isSemver('01.2.3')", "false"),
        ("!format.dns1123Label().validate('Bad').hasValue()", "false"),
        ("format.named('uuid').value().validate('x').value()", "[\"does not match the UUID format\"]"),
        ("format.named('none').hasValue()", "false"),
    ]);
}

fn cost(source: &str) -> (u64, u64) {
    let program = Program::compile(source, &env()).unwrap_or_else(|issues| panic!("{source}: {issues}"));
    let object = object();
    let declaration = Declaration::of_schema(&schema(), true, "self").unwrap();
    let bindings: [Binding<'_>; 2] = [Value::typed(&object, &declaration.ty).into(), Value::Optional(None).into()];
    (program.evaluate(&bindings, limits::CALL_COST_MAX).cost, program.estimate().max)
}

#[test]
fn costs_are_those_of_the_reference() {
    for (source, runtime, estimate) in [
        ("self.spec.size < 5", 4, 4),
        ("has(self.spec.size)", 2, 2),
        ("self.spec.name == 'abc'", 4, 4),
        ("self.spec.name.startsWith('abc')", 4, 4),
        ("self.spec.ports.all(p, p.port > 0)", 3 + 1 + 2 * 6, 3 + 1 + 10 * 6),
        ("self.spec.name.matches('^a+$')", 4, 12),
        ("true && false", 0, 0),
        ("[1, 2, 3].exists(x, x == 3)", 1 + 3 * 6, 10 + 1 + 3 * 5),
    ] {
        assert_eq!(cost(source), (runtime, estimate), "{source}");
    }
    // Nothing bounds the tags: the estimate is what fits into a request.
    let (_, estimate) = cost("self.spec.tags.all(t, t.startsWith('x'))");
    assert!(estimate > limits::ESTIMATED_RULE_COST_MAX / 2, "{estimate}");
}

#[test]
fn hostile_expressions_end() {
    let started = Instant::now();
    let many = format!("[{}]", vec!["1"; 1000].join(","));
    let doubled = (0..60).fold("[1, 1]".to_owned(), |inner, _| format!("cel.bind(a, {inner}, a + a)"));
    let text = (0..60).fold("'aa'".to_owned(), |inner, _| format!("cel.bind(a, {inner}, a + a)"));
    let optional = (0..40).fold("optional.of(1)".to_owned(), |inner, _| format!("{inner}.optMap(x, x)"));
    for source in [
        format!("{many}.all(a, {many}.all(b, {many}.all(c, a + b + c > 0)))"),
        doubled,
        text,
        "lists.range(1000000000)".to_owned(),
        format!("{many}.map(a, {many}).flatten().map(x, lists.range(1000))"),
        format!(
            "'a'.replace('', '{}').replace('', '{}').replace('', '{}').size()",
            "b".repeat(9000),
            "c".repeat(9000),
            "d".repeat(9000)
        ),
        "'%.999999999f'.format([1.0])".to_owned(),
        "'a'.matches('(a{1000}){1000}')".to_owned(),
        "[[1]].flatten(9223372036854775807)".to_owned(),
        "timestamp(9223372036854775807)".to_owned(),
        "duration('9223372036854775807h')".to_owned(),
        "timestamp('9999-12-31T23:59:59Z') + duration('9999h')".to_owned(),
        "'x'.substring(-1)".to_owned(),
        "[1][9223372036854775807]".to_owned(),
        format!("{}1", "-".repeat(100_001)),
        format!("{}true", "!".repeat(99_000)),
        "\u{0}".to_owned(),
        "'\\uD800'".to_owned(),
        "{1: 2}.all(k, v, w, true)".to_owned(),
        optional,
    ] {
        let outcome = run(&source);
        let short: String = source.chars().take(60).collect();
        let fine = source.starts_with('!') || source.contains("optMap") || source.starts_with("[[1]]");
        assert!(fine || outcome.starts_with(['!', '?']), "{short} gave {}", &outcome[..outcome.len().min(100)]);
    }
    assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
}

#[test]
fn random_text_never_panics() {
    let pieces = [
        "self",
        ".spec",
        ".size",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "1",
        "'a'",
        "+",
        "-",
        "*",
        "&&",
        "||",
        "?",
        ":",
        ",",
        "in",
        "!",
        ".all(x, ",
        "x",
        "==",
        "<",
        "has(",
        "b'\\xff'",
        "r\"",
        "\"\"\"",
        "0x",
        "1e",
        "é",
        ".?",
        "[?",
        "cel.bind(y, ",
        "dyn(",
        "\\",
        "`a-b`",
        "optional.of(",
        ".map(",
        "size(",
        "string(",
        "Object{",
        "timestamp(",
        "null",
        "true",
        "//",
        "\n",
    ];
    let mut state = 12_345u64;
    for _ in 0..20_000 {
        let mut source = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            source.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        let outcome = run(&source);
        if let Ok(program) = Program::compile(&source, &env()) {
            program.estimate();
        }
        assert!(!outcome.is_empty());
    }
}

/// `cel.bind(a, [0, ...], cel.bind(b, [a, ...], ...))`: small on paper, more than any memory when it is unfolded.
fn unfolding(last: &str) -> String {
    let names: Vec<String> = (0..20).map(|number| format!("v{number}")).collect();
    let mut source = String::new();
    for (number, name) in names.iter().enumerate() {
        let element = if number == 0 { "0" } else { &names[number - 1] };
        source += &format!("cel.bind({name}, [{}], ", [element; 10].join(", "));
    }
    source + &last.replace('@', &names[19]) + &")".repeat(20)
}

#[test]
fn values_that_contain_each_other_again_and_again_are_not_unfolded() {
    for last in
        ["{'a': @} != {'a': @}", "sets.equivalent([@], [@])", "'%s'.format([@])", "[@].indexOf(@)", "@.flatten(30)"]
    {
        let outcome = run(&unfolding(last));
        assert!(outcome.starts_with('!'), "{last} gave {}", &outcome[..outcome.len().min(100)]);
    }
    let program = Program::compile(&unfolding("@"), &env()).unwrap();
    let made = program.evaluate(&[], limits::CALL_COST_MAX).result.unwrap();
    assert_eq!(made.to_json().unwrap_err().message(), "value is too large");
}

#[test]
fn issues_are_shown_with_a_caret() {
    let issues = Program::compile("self.spec.size == 1 &&\n  self.spec.foo == 2", &env()).unwrap_err();
    assert_eq!(
        issues.to_string(),
        "ERROR: <input>:2:12: undefined field 'foo'\n |   self.spec.foo == 2\n | ...........^"
    );
}

#[test]
fn objects_are_made_for_mutations() {
    let env = env().with_mutation();
    let make = |source: &str| {
        let program = Program::compile(source, &env).map_err(|issues| issues.to_string())?;
        program
            .evaluate(&[], limits::CALL_COST_MAX)
            .result
            .map_err(|fault| fault.to_string())?
            .to_json()
            .map_err(|f| f.to_string())
    };
    assert_eq!(
        make("Object{spec: Object.spec{replicas: 3, paused: true}}"),
        Ok(json!({"spec": {"replicas": 3, "paused": true}}))
    );
    assert_eq!(
        make("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"),
        Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}]))
    );
    assert!(make("Object{spec: Object.status{a: 1}}").unwrap_err().contains("unexpected type name"));
    assert!(make("Object{spec: [Object.status{a: 1}]}").unwrap_err().contains("unexpected type name"));
    let operation = make("[JSONPatch{op: 1, path: '/a'}]").unwrap_err();
    assert!(operation.contains("expected type of field 'op' is 'string' but provided type is 'int'"), "{operation}");
    assert!(make("Other{a: 1}").unwrap_err().contains("undeclared reference to 'Other'"));
}
