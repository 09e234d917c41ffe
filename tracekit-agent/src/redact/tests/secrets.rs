//! Secrets in texts.

use crate::redact::Redactor;

/// What is between `«` and `»` must not survive. `~` is taken out: it keeps
/// scanners of repositories from taking these for real.
const CORPUS: &[&str] = &[
    // The table and the example of TraceKit's SDKs.
    "user «user@example.com» logged in",
    "ssn is «123-45-6789»",
    "card «4111111111111111»",
    "card «4111 1111 1111 1111», exp 12/27",
    "card «5555-5555-5555-4444»",
    "amex «378282246310005»",
    "call «+1-555-123-4567»",
    "call «(555) 123-4567» now",
    "call «555-123-4567»",
    "call «+442071838750»",
    "call «+49 30 901820 123»",
    "key «AK~IAIOSFODNN7EXAMPLE»",
    "aws secret: «wJ~alrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
    "AWS_SECRET_ACCESS_KEY=«wJ~alrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
    "oauth «ya29.~a0AfH6SMBx3hVq1x2y3z4»",
    "stripe «sk_~live_abc123»",
    "stripe «pk_~live_51H8abcdefgh1234»",
    "stripe «rk_~test_51H8abcdefgh1234»",
    "contains «ey~JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U» in text",
    "cut «ey~JhbGciOiJIUzI1NiIsInR5cCI6IkpXV»",
    "session=«ey~J1c2VyX2lkIjoxfQ.ZxYzAb.c2lnbmF0dXJlc2lnbmF0dXJl»",
    "-----BEGIN RSA PRIVATE KEY-----\n«MIIEowIBAAKCAQEA\nabc»\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\\n«MIIEvQIBADANBgkq»\\n-----END PRIVATE KEY-----\\n",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n«lQOYBF»\n-----END PGP PRIVATE KEY BLOCK-----",
    "api_key=«abcdef0123456789abcdef»",
    "apikey: «abcdef0123456789abcdef»",
    "password=«hunter2»",
    "passwd: «hunter2»",
    "pwd = «hunter2»",
    // Services.
    "token «gh~p_abcdefghijklmnopqrstuvwxyz0123456789»",
    "«git~hub_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz»",
    "«xo~xb-123456789012-abcdefghijkl»",
    "POST https://hooks.slack.com/services/«T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX»",
    "«AI~zaSyA1234567890abcdefghijklmnopqrstuv»",
    "«s~k-proj-abcdefghijklmnopqrstuvwxyz123456»",
    "«s~k-ant-api03-abcdefghijklmnopqrstuvwxyz-123456»",
    "«S~G.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG»",
    "«key-~0123456789abcdef0123456789abcdef»",
    "«np~m_abcdefghijklmnopqrstuvwxyz0123456789»",
    "«py~pi-AgEIcHlwaS5vcmcCJGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6»",
    "«h~f_abcdefghijklmnopqrstuvwxyzABCDEFGH»",
    "«gl~pat-abcdefghij1234567890»",
    "«do~p_v1_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef»",
    "«shp~at_0123456789abcdef0123456789abcdef»",
    "bot «123456789:AA~abcdefghijklmnopqrstuvwxyz012345678»",
    "«hvs.~CAESIJlWabcdefghijklmnop»",
    "«dapi~0123456789abcdef0123456789abcdef»",
    "«wh~sec_abcdefghijklmnopqrstuvwxyz012345»",
    "hash «$2b$12$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234»",
    "hash «pbkdf2_sha256$600000$abcdefghij$abcdefghijklmnopqrstuvwxyz0123456789abcdefg=»",
    "hash «$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b0dWRWJTmaaJObG»",
    "SECRET_KEY = '«django-insecure-abc!def@ghi#jkl$mno%pqr^stu&vwx»'",
    "fernet «cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=»",
    // URLs.
    "connecting to postgres://«app:s3cr3t»@db:5432/shop",
    "redis://«:hunter2»@cache:6379/0",
    "amqp://«guest:gu/est»@mq//",
    "mongodb+srv://«root:p@ss»@cluster0.example.net/db?retryWrites=true",
    "mysql+pymysql://«u:p%40ss»@127.0.0.1/db",
    "smtp://«bob@example.com:hunter2»@mail:25",
    "postgres://«app:s3cr3t»@db.example.com/shop",
    "https://«abcdef0123456789»@github.com/a/b",
    "GET https://h/x?a=1&access_token=«abc»&b=2",
    "https://s3/x?X-Amz-Credential=«AKID%2F2026»&X-Amz-Signature=«deadbeef»&X-Amz-Date=2026",
    "https://h/cb?code=«abc»&state=x",
    "https://blob/x?sv=2020&sig=«abc%2Bdef»",
    "/login?next=%2F&password=«a%20b»&x",
    "https://h/reset?email=«bob%40example.com»",
    // Headers.
    "Authorization: Bearer «abcdef»",
    "authorization: Basic «dXNlcjpwYXNz»",
    "sent Basic «dXNlcjpwYXNzd29yZA==» to it",
    "Authorization: Digest «username=\"bob\", response=\"abc def\"»",
    "GET / HTTP/1.1\r\nHost: h\r\nCookie: «sid=abc; theme=dark»\r\nAccept: */*",
    "Set-Cookie: «sessionid=abc123; HttpOnly»",
    "X-Api-Key: «abc-def»",
    "X-Auth-Token: «abc»",
    "Proxy-Authorization: «Basic YTpi»",
    "curl -H 'Authorization: Bearer «abc»' https://h",
    "curl -H \"X-Api-Key: «abc»\" https://h",
    "{'Authorization': '«Bearer abc»', 'Accept': '*/*'}",
    "[(b'host', b'h'), (b'authorization', b'«Bearer abc»')]",
    "[('Cookie', '«sid=abc»'), ('Accept', '*/*')]",
    // JSON and Python in texts.
    r#"{"user": "bob", "password": "«hunter2»"}"#,
    r#"{"password":"«hunter2»","n":1}"#,
    r#"{"password":   "«hu\"nter2»"}"#,
    r#"{"pass\u0077ord": "«hunter2»"}"#,
    r#"{"a": "{\"password\": \"«hunter2»\"}"}"#,
    r#"{"a": "{\"b\": \"{\\\"password\\\": \\\"«hunter2»\\\"}\"}"}"#,
    r#"{"credentials": {"user": "«bob»", "pass": "«x»"}, "n": 1}"#,
    r#"{"secrets": ["«abc»", "«def»"]}"#,
    r#"{"pin": «1234», "n": 1}"#,
    r#"{"apiKey": "«abc»", "accessToken": "«def»", "clientSecret": "«ghi»"}"#,
    "{\n  \"db_password\":\n    \"«hunter2»\"\n}",
    r#"{"name": "DB_PASSWORD", "value": "«hunter2»"}"#,
    r#"{"key": "Authorization", "value": "«x y»"}"#,
    "{'password': '«hunter2»', 'n': 1}",
    "{b'password': b'«hunter2»'}",
    "User(name='bob', password='«hunter2»')",
    "User(name='bob', password=«hunter2», n=1)",
    "Config(api_key=SecretStr('«abc»'), n=1)",
    "<Login user=bob password=«hunter2»>",
    "d['password'] = '«hunter2»'",
    "password = \"\"\"«hunter2»\"\"\"",
    "('password', '«hunter2»')",
    "error: ('token', '«abc»')",
    // Forms, command lines, files.
    "user=bob&password=«hunter2»&x=1",
    "user%5Bpassword%5D=«hunter2»&x=1",
    "user[password]=«hunter2»&x=1",
    "grant_type=password&client_secret=«abc»",
    "Content-Disposition: form-data; name=\"password\"\r\n\r\n«hunter2»\r\n--b\r\n",
    "<input type=\"password\" name=\"password\" value=\"«hunter2»\">",
    "mysql --user=bob --password=«hunter2» shop",
    "tool --password «hunter2» --verbose",
    "tool --api-key '«a b»' run",
    "['tool', '--token', '«abc»', 'run']",
    "curl -u «bob:hunter2» https://h",
    "export DB_PASSWORD=«hunter2»",
    "DATABASE_PASSWORD='«hunter2»'",
    "db:\n  user: bob\n  password: «correct horse battery»\n  port: 1",
    "Password: «correct horse battery»",
    "Server=x;User Id=sa;Password=«p@ss,w;rd»;Encrypt=yes",
    "host=db user=app password='«a b»' dbname=shop",
    "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=«YWJj+def/ghi==»;EndpointSuffix=y",
    "<password>«hunter2»</password>",
    "<ns:apiKey>«abc»</ns:apiKey>",
    "<secret><![CDATA[«a<b»]]></secret>",
    "machine h login bob password «hunter2»",
    // Messages.
    "login failed for bob: password=«hunter2»",
    "invalid api key: «abc-def-123»",
    "Invalid access token «ey~JhbGciOiJub25lIn0.eyJhIjoxfQ.»",
    "OTP: «123456»",
    "your password is «hunter2»",
    "wrong password '«hunter2»' for bob",
    "[db]\npassword = «correct horse»\nuser = bob",
    "db:\n  password: |\n    «correct horse\n    battery»\n  user: bob",
    "metadata(key='authorization', value='«Bearer abc»')",
    "PGPASSWORD=«hunter2» psql",
    "SENTRY_DSN=https://«0123456789abcdef»@sentry.example.com/1",
    "passWord=«hunter2»",
    "CREATE USER 'bob'@'%' IDENTIFIED BY '«hunter2»'",
    "401 for url: https://api.example.com/v1/x?api_key=«abc»",
    "run select * from users where name = '«bob»'",
    "AWS Secret Access Key: «abc/def»",
    "ValueError: bad token: «a1b2c3d4»",
    "Duplicate entry '«bob@example.com»' for key 'users.email'",
    "DETAIL:  Key (email)=(«bob@example.com») already exists.",
    "DETAIL:  Failing row contains («1, bob, hunter2»).",
    "[SQL: INSERT INTO users (name, pw) VALUES (%s, %s)]\n[parameters: («'bob', 'hunter2'»)]",
    "LINE 1: INSERT INTO users VALUES ('«bob»', '«hunter2»')",
    "SELECT * FROM users WHERE name = '«bob»' AND pin = «1234»",
    "UPDATE users SET pw = '«hun''ter2»' WHERE id = 7",
    "ALTER USER bob WITH PASSWORD '«hunter2»'",
    "contraseña=«hunter2»",
    "пароль: «hunter2»",
    "new_password=«hunter2» old_password=«hunter1»",
    "userPassword: «hunter2»",
    "mypassword=«hunter2»",
    "PASSWORD1=«hunter2»",
    "x-csrf-token=«abc»",
    "session_id=«abc»",
    "refresh_token: «abcdef»",
    "private_key=«abc»",
    "password==«hunter2»",
    "password := «hunter2»",
    "password => «hunter2»",
    "password != '«hunter2»'",
];

/// Texts that were cut inside a secret: all the rest is hidden.
const CUT: &[&str] = &[
    "-----BEGIN OPENSSH PRIVATE KEY-----\n«b3BlbnNzaC1rZXktdjE",
    r#"{"token": "«abc"#,
    r#"{"credentials": {"user": "«bob", "pass"#,
    "password='«correct horse",
    "[parameters: («'bob', 'hun",
    "INSERT INTO users VALUES ('«bob",
];

/// The text, and what must not survive.
fn planted(row: &str) -> (String, Vec<String>) {
    let row = row.replace('~', "");
    let secrets = row.split('«').skip(1).filter_map(|part| part.split('»').next());
    let secrets = secrets.map(str::to_owned).collect();
    (row.replace(['«', '»'], ""), secrets)
}

#[test]
fn none_survives() {
    assert!(CORPUS.len() >= 100);
    let redactor = Redactor::standard();
    let mut failures = String::new();
    for row in CORPUS.iter().chain(CUT) {
        let (text, secrets) = planted(row);
        assert!(!secrets.is_empty(), "{row}");
        let hidden = redactor.text(&text);
        let out = hidden.text.as_ref();
        let survives = secrets.iter().any(|secret| out.contains(secret.as_str()));
        if survives || hidden.findings.is_empty() {
            failures += &format!("\n{text}\n  became {out}");
        }
        let again = redactor.text(out);
        if again.text != out {
            failures += &format!("\n{out}\n  became again {}", again.text);
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn none_survives_inside_other_text() {
    let redactor = Redactor::standard();
    let mut failures = String::new();
    for row in CORPUS {
        let (text, secrets) = planted(row);
        let long = "2026-11-21 10:46:50,123 INFO shop.views: ordinary words in front of it\n".repeat(20);
        for outer in [
            format!("{long}{text}\n{long}"),
            format!("{:?}", text),
            serde_json::json!({"message": text, "n": 1}).to_string(),
            serde_json::json!({"outer": serde_json::json!({"message": text}).to_string()}).to_string(),
        ] {
            let out = redactor.text(&outer).text.into_owned();
            // Escaped, a secret may look different.
            let survives = secrets.iter().any(|secret| out.contains(secret.as_str()));
            if survives || (outer.starts_with(&long) && !(out.starts_with(&long) && out.ends_with(&long))) {
                let short = |text: &str| text.replace(&long, "…");
                failures += &format!("\n{}\n  became {}", short(&outer), short(&out));
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn types_are_those_of_the_sdks() {
    let redactor = Redactor::standard();
    for (text, expected) in [
        ("user@example.com", "[REDACTED:email]"),
        ("123-45-6789", "[REDACTED:ssn]"),
        ("4111111111111111", "[REDACTED:credit_card]"),
        ("+1-555-123-4567", "[REDACTED:phone]"),
        ("AKIAIOSFODNN7EXAMPLE", "[REDACTED:aws_key]"),
        ("aws_secret wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret [REDACTED:aws_secret]"),
        ("Bearer abcdefghijklmnopqrstuvwxyz12", "Bearer [REDACTED:oauth_token]"),
        ("contains eyJhbGci... in text", "contains [REDACTED:jwt] in text"),
        ("-----BEGIN EC PRIVATE KEY-----\nx", "[REDACTED:private_key]"),
        ("api_key=0123456789", "api_key=[REDACTED:api_key]"),
        ("password=hunter2", "password=[REDACTED:password]"),
        ("client_secret=abc", "client_secret=[REDACTED:sensitive_name]"),
        (r#"{"password": "hunter2", "n": 1}"#, r#"{"password": "[REDACTED:sensitive_name]", "n": 1}"#),
        ("postgres://u:p@db.example.com/x", "postgres://[REDACTED:credentials]@db.example.com/x"),
    ] {
        assert_eq!(redactor.text(text).text, expected, "{text}");
    }
    let stripe = ["sk", "_live_abc123"].concat();
    assert_eq!(redactor.text(&stripe).text, "[REDACTED:stripe_key]");
}
