-- What wrk sends (BENCH_BODY names a file), and its findings as one line of JSON.
local body = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method = "POST"
wrk.body = body:read("*a")
body:close()

function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"non_2xx":%d,"timeouts":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.status, failed.timeout, failed.connect + failed.read + failed.write))
end
