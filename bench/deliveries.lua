-- Delivers a webhook: wrk … URL -- SIGNATURE BODY
-- Each time it has another name, which is no part of what is signed.
local thread_number = 0
function setup(thread)
  thread_number = thread_number + 1
  thread:set("number", thread_number)
end

local count, run = 0, 0

function init(arguments)
  math.randomseed(os.time() * 16 + number)
  run = math.random(0, 1e9)
  wrk.method, wrk.body = "POST", arguments[2]
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["X-GitHub-Event"] = "delete"
  wrk.headers["X-Hub-Signature-256"] = "sha256=" .. arguments[1]
end

function request()
  count = count + 1
  wrk.headers["X-GitHub-Delivery"] = string.format("%d-%d-%d", run, number, count)
  return wrk.format()
end

function done(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('\n{"rate": %f, "p99": %f, "refused": %d, "failed": %d}\n',
    summary.requests / summary.duration * 1e6, latency:percentile(99) / 1e3, summary.errors.status, failed))
end
