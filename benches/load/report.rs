//! The result: wrk's block with a few lines more, or JSON.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::{
    admin::error_name,
    args::{Args, Mode},
    stats::{Stats, Totals},
    verify::Findings,
};

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;
const QUANTILES: [(&str, f64); 8] =
    [("50", 0.5), ("75", 0.75), ("90", 0.9), ("95", 0.95), ("99", 0.99), ("99.9", 0.999), ("99.99", 0.9999), ("max", 1.0)];

/// The broker's process over the measured time.
pub struct Server {
    pub cpu_seconds: f64,
    pub peak_bytes: u64,
    pub resident_bytes: u64,
}

pub struct Report<'a> {
    pub args: &'a Args,
    pub topic: String,
    pub partitions: usize,
    pub records_per_batch: u64,
    pub batch_len: usize,
    pub seconds: f64,
    pub stats: &'a Stats,
    pub own_cpu_seconds: f64,
    pub server: Option<Server>,
    pub findings: Option<Findings>,
}

/// Nanoseconds for people.
fn time(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        _ if ns < 1e6 => format!("{:.1}us", ns / 1e3),
        _ if ns < 1e9 => format!("{:.2}ms", ns / 1e6),
        _ => format!("{:.2}s", ns / 1e9),
    }
}

impl Report<'_> {
    fn fetches(&self) -> bool {
        matches!(self.args.mode, Mode::Fetch | Mode::CeilingFetch | Mode::E2e)
    }

    /// What the rates are of: what was received where there are consumers.
    fn totals(&self) -> Totals {
        if self.fetches() { self.stats.fetched } else { self.stats.produced }
    }

    fn latencies(&self) -> Vec<(&'static str, &Histogram<u64>)> {
        let mut list = Vec::new();
        if self.args.mode == Mode::E2e {
            list.push(("end_to_end", &self.stats.end_to_end));
        }
        if self.args.mode != Mode::E2e || self.args.acks != 0 {
            list.push(("response", &self.stats.response));
        }
        if self.args.open_loop() && self.args.mode != Mode::E2e {
            list.push(("service", &self.stats.service));
        }
        list
    }

    fn acks(&self) -> String {
        if self.args.acks < 0 { "all".to_string() } else { self.args.acks.to_string() }
    }

    fn mode(&self) -> &'static str {
        match self.args.mode {
            Mode::Produce => "produce",
            Mode::Fetch => "fetch",
            Mode::E2e => "e2e",
            Mode::Ceiling => "ceiling",
            Mode::CeilingFetch => "ceiling-fetch",
            Mode::Null => "null",
        }
    }

    pub fn text(&self) -> String {
        let (args, totals, stats) = (self.args, self.totals(), self.stats);
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String succeeds");
        line(format!("Running {:.0?} {} @ {}", args.duration, self.mode(), args.bootstrap_server));
        let pace = args.rate.map_or("closed loop".to_string(), |rate| format!("{rate} requests/s, open loop"));
        line(format!("  {} threads and {} connections, {} in flight each, {pace}", args.threads, args.connections, args.inflight));
        let fetch = if self.fetches() { format!(", fetches of up to {} B", args.fetch_bytes) } else { String::new() };
        line(format!(
            "  topic {} with {} partitions; batches of {} B, {} records of {} B each, acks={}{fetch}",
            self.topic,
            self.partitions,
            self.batch_len,
            self.records_per_batch,
            args.record_size,
            self.acks()
        ));
        for (name, histogram) in self.latencies() {
            line(format!(
                "  {:<12} avg {:>9}   stdev {:>9}",
                name.replace('_', " "),
                time(histogram.mean() as u64),
                time(histogram.stdev() as u64)
            ));
            for (label, quantile) in QUANTILES {
                let unit = if label == "max" { "" } else { "%" };
                line(format!("  {:>8}{unit:<1} {:>10}", label, time(histogram.value_at_quantile(quantile))));
            }
        }
        line(format!(
            "  {} requests, {} records, {:.2} GiB in {:.2}s",
            totals.requests,
            totals.records,
            totals.bytes as f64 / GIB,
            self.seconds
        ));
        for (code, count) in &stats.errors {
            line(format!("  Errors: {count} x {}", error_name(*code)));
        }
        if stats.broken + stats.unanswered > 0 {
            let why = stats.first_break.as_deref().unwrap_or("no answer");
            line(format!("  Broken connections: {}, unanswered requests: {} ({why})", stats.broken, stats.unanswered));
        }
        line(format!("Requests/sec:  {:>14.1}", totals.requests as f64 / self.seconds));
        line(format!("Records/sec:   {:>14.1}", totals.records as f64 / self.seconds));
        let per_second = totals.bytes as f64 / self.seconds;
        line(format!("Transfer/sec:  {:>11.1} MB ({:.1} MiB)", per_second / 1e6, per_second / MIB));
        line(format!("Generator CPU: {:>12.1} % of a core", 100.0 * self.own_cpu_seconds / self.seconds));
        if let Some(server) = &self.server {
            let (per_gib, per_million) = self.server_costs(server);
            line(format!(
                "Server CPU:    {:>12.1} % of a core; {per_gib:.3} s per GiB, {per_million:.3} s per million records",
                100.0 * server.cpu_seconds / self.seconds,
            ));
            let (peak, now) = (server.peak_bytes as f64 / MIB, server.resident_bytes as f64 / MIB);
            line(format!("Server memory: {peak:>10.1} MiB at most, {now:.1} MiB now"));
        }
        if let Some(found) = &self.findings {
            let verdict = if found.good() { "all is there, once, in order" } else { "FAULTS" };
            line(format!(
                "Verified:      {verdict}: {} batches, {} records read back; {} lost, {} duplicate, {} out of order, {} refused yet present, {} damaged; {} there unacknowledged",
                found.batches,
                found.records,
                found.lost,
                found.duplicates,
                found.disordered,
                found.refused_present,
                found.damaged,
                found.unacknowledged
            ));
        }
        out
    }

    fn server_costs(&self, server: &Server) -> (f64, f64) {
        let totals = self.totals();
        (server.cpu_seconds / (totals.bytes as f64 / GIB), server.cpu_seconds / (totals.records as f64 / 1e6))
    }

    /// One object on one line. Times in microseconds, sizes in bytes.
    pub fn json(&self) -> String {
        let (args, totals, stats) = (self.args, self.totals(), self.stats);
        let number = |value: f64| if value.is_finite() { format!("{value:.4}") } else { "null".to_string() };
        let mut fields = vec![
            format!("\"mode\":\"{}\"", self.mode()),
            format!("\"connections\":{},\"inflight\":{},\"threads\":{}", args.connections, args.inflight, args.threads),
            format!("\"partitions\":{},\"acks\":\"{}\"", self.partitions, self.acks()),
            format!(
                "\"record_size\":{},\"records_per_batch\":{},\"batch_bytes\":{}",
                args.record_size, self.records_per_batch, self.batch_len
            ),
            format!("\"rate\":{}", args.rate.map_or("null".to_string(), number)),
            format!("\"seconds\":{}", number(self.seconds)),
            format!("\"requests\":{},\"records\":{},\"bytes\":{}", totals.requests, totals.records, totals.bytes),
            format!("\"requests_per_s\":{}", number(totals.requests as f64 / self.seconds)),
            format!("\"records_per_s\":{}", number(totals.records as f64 / self.seconds)),
            format!("\"mb_per_s\":{}", number(totals.bytes as f64 / self.seconds / 1e6)),
            format!("\"generator_cpu\":{}", number(self.own_cpu_seconds / self.seconds)),
            format!("\"errors\":{},\"broken\":{},\"unanswered\":{}", stats.errors.values().sum::<u64>(), stats.broken, stats.unanswered),
        ];
        for (name, histogram) in self.latencies() {
            let of = |(label, quantile): (&str, f64)| {
                let label = if label == "max" { label.to_string() } else { format!("p{label}") };
                format!("\"{label}\":{}", number(histogram.value_at_quantile(quantile) as f64 / 1e3))
            };
            let quantiles: Vec<String> = QUANTILES.into_iter().map(of).collect();
            fields.push(format!("\"{name}_us\":{{\"mean\":{},{}}}", number(histogram.mean() / 1e3), quantiles.join(",")));
        }
        if let Some(server) = &self.server {
            let (per_gib, per_million) = self.server_costs(server);
            fields.push(format!("\"server_cpu\":{}", number(server.cpu_seconds / self.seconds)));
            fields.push(format!("\"server_cpu_s_per_gib\":{},\"server_cpu_s_per_million\":{}", number(per_gib), number(per_million)));
            fields.push(format!("\"server_peak_rss\":{},\"server_rss\":{}", server.peak_bytes, server.resident_bytes));
        }
        if let Some(found) = &self.findings {
            fields.push(format!(
                "\"verified\":{},\"lost\":{},\"duplicates\":{},\"disordered\":{},\"damaged\":{}",
                found.good(),
                found.lost,
                found.duplicates,
                found.disordered,
                found.damaged
            ));
        }
        format!("{{{}}}", fields.join(","))
    }

    /// The latencies as HdrHistogram's tools plot them: value in milliseconds, percentile, count, 1/(1-percentile).
    pub fn percentile_table(&self) -> String {
        let mut out = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n".to_string();
        let Some((_, histogram)) = self.latencies().into_iter().next() else { return out };
        let mut count = 0;
        for step in histogram.iter_quantiles(5) {
            count += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
            let inverse = if quantile < 1.0 { format!("{:.2}", 1.0 / (1.0 - quantile)) } else { "inf".to_string() };
            writeln!(out, "{value:12.3} {quantile:2.12} {count:10} {inverse:>14}").expect("writing to a String succeeds");
        }
        out
    }
}
