//! Ordinary data that stays as it is.

use crate::redact::{Redactor, names};

const CORPUS: &[&str] = &[
    // Numbers, times, ids, hashes, versions.
    "0",
    "42",
    "-17",
    "3.14159",
    "1e-9",
    "0x7f3a",
    "1700000000",
    "1700000000123",
    "1700000000123456",
    "1700000000123456789",
    "1234567890",
    "9876543210",
    "order 1234567890123456",
    "order 4111111111111112",
    "4111111111111111.5",
    "0.4111111111111111",
    "1234-5678-9012-3456",
    "100 200 3000",
    "555 1234",
    "2026-11-21",
    "2026-11-21 10:46:50,123",
    "2026-11-21T10:46:50.123456+00:00",
    "2026-11-21T10:46:50Z",
    "21/Nov/2026:10:46:50 +0000",
    "Sat, 21 Nov 2026 10:46:50 GMT",
    "10:46:50 +1000 2026",
    "00:01:02.345",
    "123e4567-e89b-12d3-a456-426614174000",
    "{'id': UUID('123e4567-e89b-12d3-a456-426614174000')}",
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7",
    "ObjectId('507f1f77bcf86cd799439011')",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "ch_3MmlLrLkdIwHu7ix0snN0B15",
    "cus_NffrFeUfNV2Hib",
    "v1.2.3",
    "Python 3.12.4 (main, Jun  7 2024, 00:00:00) [GCC 12.2.0] on linux",
    "1.0.0+20240101120000",
    "numpy==1.26.4",
    "requests>=2.31,<3",
    "4.19.0-25-amd64",
    "192.168.0.1",
    "10.0.0.1:8080",
    "::1",
    "2001:db8::ff00:42:8329",
    "00:1a:2b:3c:4d:5e",
    "127.0.0.1 - - [21/Nov/2026:10:46:50 +0000] \"GET /checkout/7 HTTP/1.1\" 200 512",
    "978-3-16-148410-0",
    "ISBN 9783161484100",
    "part 123-456-789",
    "lat 52.520008, lon 13.404954",
    "$19.99",
    "EUR 1.234,56",
    "50%",
    "100%",
    // Paths, addresses, code.
    "/usr/lib/python3.12/site-packages/flask/app.py",
    "/srv/app/shop/views.py:42",
    "C:\\Users\\bob\\AppData\\Local",
    "./a/b/../c",
    "s3://bucket/path/to/object.parquet",
    "file:///etc/hosts",
    "http://localhost:8080/",
    "http://host:8080/@name",
    "https://example.com/a/b?x=1&page=2#top",
    "https://example.com/search?q=token+of+love",
    "https://medium.com/@someone/a-story-1234",
    "postgres://db.internal:5432/shop",
    "redis://cache:6379/0",
    "ssh://git@example.com/repo.git",
    "git@github.com:org/repo.git",
    "npm i @babel/core@7.24.0",
    "image registry/app@sha256:abcdef",
    "logo@2x.png",
    "user@1000.service",
    "getty@tty1.service",
    "@app.route('/checkout/<int:number>')",
    "def author(token_count, passenger): return monkey",
    "lambda key, value: (key, value)",
    "for key, value in items.items():",
    "sorted(items, key=lambda item: item.price)",
    "sorted(items, key=itemgetter(1))",
    "max(values, key=len)",
    "if password is None:",
    "def login(user: str, password: str) -> bool:",
    "password: Optional[str] = None",
    "token = None",
    "api_key=None",
    "password=****",
    "password=[FILTERED]",
    "password=${DB_PASSWORD}",
    "secret: {{ secret }}",
    "password=%s",
    "<function get_token at 0x7f8a1c2d3e40>",
    "<class 'shop.auth.TokenBackend'>",
    "<Order 7: 3 items>",
    "Order(number=7, lines=[Line(sku='A-1', quantity=2)], total=Decimal('19.99'))",
    "datetime.datetime(2026, 11, 21, 10, 46, 50)",
    "range(0, 10)",
    "b'\\x00\\x01'",
    "[1, 2, 3]",
    "{'a': 1, 'b': [2, 3]}",
    r#"{"id": 7, "name": "bob", "items": [1, 2], "ok": true, "x": null}"#,
    r#"{"name": "colour", "value": "red"}"#,
    r#"{"key": "colour", "value": "red"}"#,
    r#"{"token_type": "bearer", "expires_in": 3600}"#,
    r#"{"usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}}"#,
    r#"{"max_tokens": 100, "temperature": 0.7, "model": "gpt-4o"}"#,
    r#"{"next_token": "abc", "page_token": "def"}"#,
    r#"{"primary_key": "id", "foreign_key": "user_id", "cache_key": "user:7"}"#,
    r#"{"author": "Ann", "monkey": "x", "tokenizer": "bpe", "passenger": "Bo"}"#,
    r#"{"password": null, "token": "", "secret": false}"#,
    r#"{"public_key": "abc", "keyboard": "de", "keywords": ["a"]}"#,
    r#"{"password_policy": {"min": 8}, "password_min_length": 8}"#,
    r#"{"session": "spring", "signature": "f(x)", "code": 7, "status": "ok"}"#,
    r#"{"routing_key": "orders.created", "exchange": "orders"}"#,
    r#"{"authenticated": true, "authority": "x", "author_id": 5}"#,
    "<b>bold</b>",
    "<author>Ann</author>",
    "<input type=\"text\" name=\"colour\" value=\"red\">",
    "Content-Disposition: form-data; name=\"colour\"\r\n\r\nred\r\n--b\r\n",
    "Content-Type: application/json; charset=utf-8",
    "Accept: */*",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Host: example.com:8080",
    "Cache-Control: max-age=3600",
    "ETag: W/\"5d8c72a5edda8d6a:0\"",
    "Content-Length: 1234567890",
    "X-Request-Id: 4bf92f3577b34da6a3ce929d0e0e4736",
    "a=1&b=2&page=3",
    "name=bob&colour=red&id=7",
    "ls -la --color=auto --sort size",
    "gunicorn app:wsgi --workers 4 --bind 0.0.0.0:8000",
    "pip install --key-file x --token-file y --password-file z",
    "tool --max-tokens 100 --sort-key name",
    "export PATH=/usr/bin:/bin",
    "LANG=en_US.UTF-8",
    "DEBUG=1 LOG_LEVEL=info",
    // Messages.
    "hello world",
    "",
    " ",
    "a",
    "ok",
    "Grüße aus Köln",
    "日本語のテキスト",
    "emoji 😀 and more",
    "The quick brown fox jumps over the lazy dog.",
    "Bob's order #7 was shipped, at last!",
    "a basic idea",
    "basic understanding of things",
    "bearer of bad news",
    "the bearer authentication scheme",
    "token of love",
    "Unexpected token: '}' at line 3",
    "Unexpected token: identifier",
    "unexpected token in JSON at position 0",
    "invalid key: colour",
    "Invalid token: expired",
    "KeyError: 'colour'",
    "KeyError: 'password'",
    "TypeError: login() missing 1 required positional argument: 'password'",
    "ValueError: invalid literal for int() with base 10: 'x'",
    "InvalidTokenError: Signature has expired",
    "PasswordTooShort: 8 characters are needed",
    "password: This field is required.",
    "Password: must be at least 8 characters",
    "password: str",
    "token: string",
    "password reset for user 7",
    "the password is required",
    "the token is expired",
    "password changed",
    "secret santa",
    "press any key to continue",
    "key: name",
    "key: colour, value: red",
    "cache miss key=user:7",
    "cache key user:7:orders",
    "key=colour value=red",
    "lock acquired: key=orders:7",
    "sent to partition 3, key=order-7",
    "author: Ann",
    "tokenizer: bpe",
    "tokens: 46",
    "auth: ok",
    "auth=basic",
    "pin: left",
    "cookies: enabled",
    "monkey=1 donkey=2 turkey=3",
    "passenger=Bo, compass=north, bypass=yes",
    "first_pass=1 second_pass=2",
    "user_id=7 order_id=12 sku=A-1 total=19.99",
    "GET /checkout/7 200 4.90 ms",
    "Traceback (most recent call last):\n  File \"/srv/app/views.py\", line 42, in checkout\n    total = sum(lines)\nTypeError: x",
    "    user = User.objects.get(pk=7)",
    "Select one of 5 options from the list",
    "select 3 items, please",
    "we select 3 items from it's list",
    "the password 'required' rule",
    "Update available: version 5",
    "SELECT id, name FROM users WHERE id = %s",
    "SELECT id,  name\n  FROM users\n WHERE id = $1 AND b IN (?, ?)",
    "UPDATE users SET name = :name WHERE id = :id",
    "INSERT INTO t (a, b) VALUES (?, ?)",
    "SELECT \"t\".\"a\" FROM \"t\" WHERE \"t\".\"b\" = %s",
    "BEGIN",
    "COMMIT",
    "SET x 7",
    "GET user:7",
    "HGETALL session-stats",
    "orders.created",
    "shop.views.checkout",
    "src/components/UserProfile2/ButtonGroup3/IndexPageV2",
    "AbstractSingletonProxyFactoryBean2ForHttp11Requests",
    "test_that_HTTP2_And_TLS13_Are_Both_Spoken_By_Server42",
    "MAX_RETRIES_BEFORE_GIVING_UP_ON_BACKEND_2",
    "deployment-7d4b9c6f5d-x2x7q",
    "ip-10-0-0-1.eu-west-1.compute.internal",
    "arn:aws:iam::123456789012:role/shop",
    "projects/shop-1234/locations/europe-west1/keyRings/ring",
    "\"integrity\": \"sha512-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/ua9NDDo/DWp0ZAxCr3cPq5ZpBqmPAQgDda2Pw==\", \"x\"",
    "    self.token_factory = None",
    "2026-11-21 10:46:50,123 INFO [worker-3] shop.views: order 7 created by user 12 in 4.2 ms",
    "{\"level\": \"info\", \"ts\": 1700000000.123, \"msg\": \"done\", \"trace_id\": \"4bf92f3577b34da6a3ce929d0e0e4736\"}",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "ssh-ed25519 fingerprint SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8",
    "{\"event\": \"order_created\", \"at\": 1700000000, \"by\": \"worker-3\"}",
    "{'sku': 'A-1', 'price': 19.99, 'stock': 3, 'tags': ['new', 'red']}",
    "task_live_session_start",
    "risk_test_results_2024",
    "sk_test_dataset_loader",
    "desk-lamp-with-a-very-long-name-in-slug-form",
    "key-value-store-with-compaction",
    "ya29",
    "eyJ",
    "AKIA",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
];

#[test]
fn all_stays() {
    assert!(CORPUS.len() >= 200, "{}", CORPUS.len());
    let redactor = Redactor::standard();
    let mut failures = String::new();
    let long = CORPUS.join("\n");
    for text in CORPUS {
        for outer in [(*text).to_owned(), format!("done: {text}"), serde_json::json!([text]).to_string()] {
            let hidden = redactor.text(&outer);
            if hidden.text != outer.as_str() || !hidden.findings.is_empty() {
                failures += &format!("\n{outer}\n  became {}", hidden.text);
            }
        }
    }
    let hidden = redactor.text(&long);
    for finding in hidden.findings {
        failures += &format!("\nhidden in all of it: {:?}", &long[finding.range]);
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn names_of_this_program_stay() {
    // The words of a Python program that has to do with users, texts and money.
    for name in "request response user order item total price quantity customer address city street country name \
        first_name last_name username email phone status state index count result results data payload body \
        headers params args kwargs self cls value values items keys mapping config settings options context \
        session connection cursor query rows row record records model models form forms field fields error errors \
        exc exception message messages text line lines path file filename url uri host port scheme method route \
        view template page pages author authors article comment comments parser lexer tokens tokenizer vocabulary \
        prompt completion temperature batch epoch loss optimizer tensor shape dtype matrix vector passenger \
        passengers flight turkey monkey donkey hockey keyboard keystroke keyword compass trespass passage \
        encompass surpass assess possess secretary secretion authority authentic created_at updated_at expires_at \
        is_active is_admin timeout retries delay queue worker job task event events listener handler callback \
        logger level formatter stream buffer chunk offset limit size length width height depth"
        .split_whitespace()
    {
        assert!(!names::is_secret(name), "{name}");
    }
}

/// Names of attributes, parameters, variables and keys in Django, Flask, SQLAlchemy, Celery, requests, FastAPI, pandas, boto3
/// and others that have a word such as `key`, `token` or `session` in them.
const NAMES: &str = include_str!("names.txt");

#[test]
fn names_in_well_known_packages_are_ordinary() {
    let hidden: Vec<&str> = NAMES.split_whitespace().filter(|name| names::is_secret(name)).collect();
    assert!(NAMES.split_whitespace().count() > 1000 && hidden.is_empty(), "{hidden:?}");
}

#[test]
fn names_like_those_of_secrets_are_not_all_secret() {
    let ordinary = "keys key1 key_2 sort_key primary_key cache_key foreign_key key_func lookup_key old_key tokens tokenizer \
        token_count next_token starting_token authors author_id author passed passenger secretary cookie_consent \
        password_changed_at password_updated_at cookie_jar key_columns group_key row_key dedupe_key partition_key";
    let secret = "api_key apikey1 api_key_2 X-Api-Key x_api_key1 access_token2 db_password db_password1 key token2 secret1 \
        stripe_key openai_key AWS_SECRET_ACCESS_KEY2 encryption_key_bytes private_key_pem auth_token_value user_token \
        token_prod creds_dict csrf_token_value session_cookie_value secretKey jwt_raw";
    for name in ordinary.split_whitespace() {
        assert!(!names::is_secret(name), "{name} is ordinary");
    }
    for name in secret.split_whitespace() {
        assert!(names::is_secret(name), "{name} is secret");
    }
}
