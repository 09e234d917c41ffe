use super::*;

fn config(variables: &[(&str, &str)]) -> Result<ExportConfig, ConfigError> {
    let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ExportConfig::from_env(&variables)
}

#[test]
fn defaults_are_those_of_the_specification() {
    let config = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "  ")]).unwrap();
    assert_eq!(config.traces, Exporters { otlp: true, console: false });
    assert_eq!(config.traces_otlp.endpoint.as_str(), "http://localhost:4318/v1/traces");
    assert_eq!(config.metrics_otlp.endpoint.as_str(), "http://localhost:4318/v1/metrics");
    assert_eq!(config.logs, Exporters { otlp: true, console: false });
    assert_eq!(config.logs_otlp.endpoint.as_str(), "http://localhost:4318/v1/logs");
    assert_eq!(config.log_batch.schedule_delay, Duration::from_secs(1));
    assert_eq!(config.traces_otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(config.traces_otlp.compression, Compression::None);
    assert_eq!(config.traces_otlp.timeout, Duration::from_secs(10));
    assert_eq!(config.batch.max_export_batch_size, 512);
    assert_eq!(config.batch.schedule_delay, Duration::from_secs(5));
    assert_eq!(config.metric_reader.interval, Duration::from_secs(60));
    assert_eq!(config.sampler, Sampler::default());
    assert!(!config.endpoint_configured);
    assert!(config.warnings.is_empty());
}

#[test]
fn endpoints() {
    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const INSECURE: (&str, &str) = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        ("http/protobuf", &[(GENERAL, "http://c:4318")], "http://c:4318/v1/traces"),
        ("http/protobuf", &[(GENERAL, "http://c:4318/")], "http://c:4318/v1/traces"),
        ("http/protobuf", &[(GENERAL, "https://c/otlp/")], "https://c/otlp/v1/traces"),
        ("http/protobuf", &[(GENERAL, "https://c/otlp?k=1")], "https://c/otlp/v1/traces?k=1"),
        ("http/protobuf", &[(TRACES, "http://c:4318")], "http://c:4318/"),
        ("http/protobuf", &[(GENERAL, "http://g"), (TRACES, "http://c/in")], "http://c/in"),
        ("grpc", &[], "http://localhost:4317/"),
        ("grpc", &[(GENERAL, "http://c:4317/ignored")], "http://c:4317/"),
        ("grpc", &[(GENERAL, "https://c:4317")], "https://c:4317/"),
        ("grpc", &[(GENERAL, "c:4317")], "https://c:4317/"),
        ("grpc", &[(GENERAL, "c:4317"), INSECURE], "http://c:4317/"),
        ("grpc", &[(GENERAL, "https://c:4317"), INSECURE], "https://c:4317/"),
        ("grpc", &[(GENERAL, "http://[::1]:4317")], "http://[::1]:4317/"),
    ];
    for (protocol, variables, expected) in cases {
        let mut variables = variables.to_vec();
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let config = config(&variables).unwrap();
        assert_eq!(config.traces_otlp.endpoint.as_str(), *expected, "{variables:?}");
        assert_eq!(config.endpoint_configured, variables.iter().any(|(key, _)| key.ends_with("ENDPOINT")));
    }
}

#[test]
fn a_signal_has_its_own_variables() {
    let config = config(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "500"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "cert.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "traces-ca.pem"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"),
    ])
    .unwrap();
    assert_eq!(config.traces_otlp.protocol, Protocol::Grpc);
    assert_eq!(config.metrics_otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(config.traces_otlp.compression, Compression::Gzip);
    assert_eq!(config.metrics_otlp.compression, Compression::None);
    assert_eq!(config.traces_otlp.timeout, Duration::from_millis(2500));
    assert_eq!(config.metrics_otlp.timeout, Duration::from_millis(500));
    assert_eq!(config.traces_otlp.certificate, Some("traces-ca.pem".into()));
    assert_eq!(config.metrics_otlp.certificate, Some("ca.pem".into()));
    let identity = config.traces_otlp.client_identity.unwrap();
    assert_eq!((identity.key, identity.certificate), ("key.pem".into(), "cert.pem".into()));
}

#[test]
fn headers_are_decoded_and_not_shown() {
    let config = config(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key = s3cr%2Ct , X-Tenant=a%20b=c,")]).unwrap();
    let headers = &config.traces_otlp.headers;
    assert_eq!(headers.get("api-key").unwrap(), "s3cr,t");
    assert_eq!(headers.get("x-tenant").unwrap(), "a b=c");
    assert!(!format!("{config:?}").contains("s3cr"));
}

#[test]
fn passwords_in_endpoints_are_not_shown() {
    let config = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:pw@c/in?token=t")]).unwrap();
    assert_eq!(config.traces_otlp.display_endpoint(), "https://c/in/v1/traces");
}

#[test]
fn batches_samplers_and_exporters() {
    let config = config(&[
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "700"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("OTEL_TRACES_EXPORTER", "otlp, console"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ])
    .unwrap();
    assert_eq!(config.batch.max_queue_size, 100);
    assert_eq!(config.batch.max_export_batch_size, 100);
    assert_eq!(config.batch.schedule_delay, Duration::ZERO);
    assert_eq!(config.batch.export_timeout, Duration::from_secs(1));
    assert_eq!(config.metric_reader.interval, Duration::from_millis(1500));
    assert_eq!(config.metric_reader.timeout, Duration::from_millis(700));
    assert_eq!(config.sampler, Sampler::trace_id_ratio(0.5).parent_based());
    assert_eq!(config.traces, Exporters { otlp: true, console: true });
    assert_eq!(config.metrics, Exporters::default());
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn sdk_disabled_switches_both_signals_off() {
    let config = config(&[("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "otlp")]).unwrap();
    assert_eq!((config.traces, config.metrics), (Exporters::default(), Exporters::default()));
}

#[test]
fn errors_name_variable_value_and_remedy() {
    let cases: &[(&str, &str, &str)] = &[
        ("OTEL_SDK_DISABLED", "yes", "true or false"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "thrift", "grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "-1", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://localhost", "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k.pem", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "c.pem", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "between 1 and"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000", "OTEL_BSP_MAX_QUEUE_SIZE"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "milliseconds"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1.5", "milliseconds"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_always_on"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, console, none"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "otlp, none"),
    ];
    for (variable, value, remedy) in cases {
        let error = config(&[(variable, value)]).unwrap_err();
        assert_eq!((error.variable.as_str(), error.value.as_str()), (*variable, *value));
        assert!(error.remedy.contains(remedy), "{error}");
        assert!(error.to_string().contains(variable), "{error}");
    }
    let arg = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "NaN")];
    assert_eq!(config(&arg).unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG");
}

#[test]
fn errors_do_not_show_header_values() {
    for value in ["s3cret", "k=s3cret\u{1}", "k k=s3cret", "Content-Type=s3cret"] {
        let error = config(&[("OTEL_EXPORTER_OTLP_HEADERS", value)]).unwrap_err();
        assert_eq!(error.variable, "OTEL_EXPORTER_OTLP_HEADERS");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
