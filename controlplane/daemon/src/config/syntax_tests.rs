use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> (Section, Diagnostics) {
    let mut findings = Diagnostics::default();
    let source = Source { name: "t.conf".to_owned(), mode: None, directory: PathBuf::new() };
    let root = read_text(text, source, &mut findings);
    (root, findings)
}

/// A section as text, one setting in a line: `a.b=v`.
fn dump(section: &Section) -> String {
    fn walk(section: &Section, path: &str, out: &mut String) {
        for setting in &section.settings {
            let value = match &setting.value {
                Some(Value::Text(text)) => format!("={}", text.as_str()),
                Some(_) => unreachable!("files have text only"),
                None => "-".to_owned(),
            };
            out.push_str(&format!("{path}{}{value}\n", setting.key));
        }
        for sub in &section.sections {
            out.push_str(&format!("{path}{}:\n", sub.name));
            walk(sub, &format!("{path}{}.", sub.name), out);
        }
    }
    let mut out = String::new();
    walk(section, "", &mut out);
    out
}

fn messages(text: &str) -> Vec<String> {
    parse(text).1.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_of_the_manual() {
    let (root, findings) = parse(
        "a = b\nsection-one {\n somevalue = asdf\n subsection {\n  othervalue = xxx\n }\n # yei\n \
         yetanother = zz\n}\nsection-two\n{\n x = 12\n}\n",
    );
    assert_eq!(findings.to_string(), "");
    assert_eq!(
        dump(&root),
        "a=b\nsection-one:\nsection-one.somevalue=asdf\nsection-one.yetanother=zz\n\
         section-one.subsection:\nsection-one.subsection.othervalue=xxx\nsection-two:\n\
         section-two.x=12\n"
    );
}

#[test]
fn values_end_at_newline_brace_and_hash() {
    let (root, findings) = parse("s { a = one  two\tthree } b = x # c\r\nc = \"q # } \\\"\" end\n");
    assert_eq!(findings.to_string(), "");
    assert_eq!(dump(&root), "b=x\nc=q # } \" end\ns:\ns.a=one two three\n");
}

#[test]
fn strings_have_escapes_and_span_lines() {
    let (root, findings) = parse("a = \"1\\n2\\t3\\\\4\\\n5\n6\" \nb = 7");
    assert_eq!(findings.to_string(), "");
    assert_eq!(dump(&root), "a=1\n2\t3\\45\n6\nb=7\n");
    let b = root.settings.last().unwrap();
    assert_eq!(b.at.line, 4);
}

#[test]
fn sections_merge_and_later_settings_win() {
    let (root, _) = parse("s { a = 1\n b = 2 }\ns { a = 3\n b = \n c = 4 }");
    assert_eq!(dump(&root), "s:\ns.a=3\ns.b-\ns.c=4\n");
    let flat = flatten(&root, "s", &mut Diagnostics::default()).unwrap();
    assert_eq!(dump(&flat), "a=3\nc=4\n");
}

#[test]
fn references_inherit_beneath_what_a_section_says() {
    let (root, _) = parse(
        "connections {\n a : base, more.deep {\n  x = 1\n  children { c { m = 1 } }\n }\n \
         b : connections.a { y = }\n}\nbase {\n x = 9\n y = 9\n children { c { m = 9\n n = 9 } d { } }\n}\n\
         more { deep { z = 9 } }\n",
    );
    let mut findings = Diagnostics::default();
    let flat = flatten(&root, "connections", &mut findings).unwrap();
    assert_eq!(findings.to_string(), "");
    assert_eq!(
        dump(&flat),
        "a:\na.x=1\na.y=9\na.z=9\na.children:\na.children.c:\na.children.c.m=1\na.children.c.n=9\n\
         a.children.d:\nb:\nb.x=1\nb.z=9\nb.children:\nb.children.c:\nb.children.c.m=1\n\
         b.children.c.n=9\nb.children.d:\n"
    );
}

#[test]
fn circles_are_found() {
    for (text, message) in [
        ("s { a : s.a { x = 1 } }", "t.conf:1: a: 's.a' inherits from itself"),
        ("s { a : s.b { }\n b : s.a, s.a { } }", "t.conf:2: b: 's.a' inherits from itself"),
        ("s : s, s { a : s, s { } }", "t.conf:1: s: 's' inherits from itself"),
    ] {
        let (root, _) = parse(text);
        let mut findings = Diagnostics::default();
        flatten(&root, "s", &mut findings);
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(found.contains(&message.to_owned()), "{text}: {found:?}");
    }
}

#[test]
fn doublings_end() {
    let mut text = String::from("l0 { x = 1 }\n");
    for level in 1..40 {
        let below = level - 1;
        text.push_str(&format!("l{level} {{ a : l{below} {{ }}\n b : l{below} {{ }} }}\n"));
    }
    let (root, _) = parse(&text);
    let mut findings = Diagnostics::default();
    flatten(&root, "l15", &mut findings);
    assert_eq!(findings.to_string(), "");
    flatten(&root, "l39", &mut findings);
    assert!(findings.to_string().contains("references more than 16 deep"), "{findings}");
}

#[test]
fn errors_name_the_line_and_reading_goes_on() {
    assert_eq!(
        messages("a\n= 1\nb {\n c = \"x\n}"),
        [
            "t.conf:1: a: neither a setting nor a section; write 'a = value' or 'a {'",
            "t.conf:2: a name is needed before '='",
            "t.conf:4: c: the string has no closing double quote",
            "t.conf:3: b: the section has no closing '}'",
        ]
    );
    assert_eq!(
        messages("}\n{ a = 1 }\nx : { }"),
        [
            "t.conf:1: '}' closes no section",
            "t.conf:2: '{' needs the name of the section before it",
            "t.conf:3: x: ':' needs the name of a section behind it",
        ]
    );
    let warning = messages("secret = abc#def");
    assert!(warning[0].starts_with("t.conf:1: secret: '#' begins a comment"), "{warning:?}");
    assert!(messages(&"a {".repeat(1000))[0].contains("nested more than 32 deep"));
}

#[test]
fn includes_are_relative_and_bounded() {
    let directory = std::env::temp_dir().join(format!("culvert-include-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("conf.d")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write(
        "a.conf",
        "s { x = 1\n include conf.d/*.conf }\ninclude nothing-*\ninclude \"c d.conf\"\n",
    );
    write("conf.d/1.conf", "x = 2\ny = 2\n");
    write("conf.d/2.conf", "y = 3\ninclude ../e.conf # not relative to a.conf\n");
    write("e.conf", "z = 4");
    write("c d.conf", "include missing.conf\ninclude = 5\n");
    let mut findings = Diagnostics::default();
    let root = read(&directory.join("a.conf"), &mut findings);
    assert_eq!(dump(&root), "include=5\ns:\ns.x=2\ns.y=3\ns.z=4\n");
    let errors: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("c d.conf:1: ") && errors[0].contains("missing.conf"), "{errors:?}");

    write("loop.conf", "include loop.conf\ninclude loop*.conf\n");
    let mut findings = Diagnostics::default();
    read(&directory.join("loop.conf"), &mut findings);
    assert!(findings.to_string().contains("included more than 10 deep"), "{findings}");
    std::fs::remove_dir_all(&directory).unwrap();
}

proptest! {
    #[test]
    fn no_text_panics(text in r#"([a-c={}:,"\\# \n\t\r]|include|\PC){0,200}"#) {
        let (root, mut findings) = parse(&text);
        for section in &root.sections {
            flatten(&root, &section.name, &mut findings);
        }
    }

    /// What is written with every value quoted is read back as it was.
    #[test]
    fn quoted_values_survive(values in proptest::collection::vec("[^\r]{0,20}", 1..5)) {
        let mut text = String::new();
        for (i, value) in values.iter().enumerate() {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            text.push_str(&format!("k{i} = \"{escaped}\"\n"));
        }
        let (root, findings) = parse(&text);
        prop_assert_eq!(findings.to_string(), "");
        let read: Vec<&str> = root.settings.iter().map(|s| match &s.value {
            Some(Value::Text(text)) => text.as_str(),
            _ => "",
        }).collect();
        prop_assert_eq!(read, values);
    }
}
