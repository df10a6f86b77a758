-- Asks a cache for narinfos: wrk … URL -- hits FILE|known-misses|misses
--   hits          the hashes of a file, one a line, over and over
--   known-misses  1,000 hashes that nothing has, over and over
--   misses        hashes that nothing has, each of them once
local thread_number = 0
function setup(thread)
  thread_number = thread_number + 1
  thread:set("number", thread_number)
end

local requests, at, fresh = {}, 0, false

local function of_hash(hash)
  return wrk.format("GET", wrk.path .. "/" .. hash .. ".narinfo")
end

local function random_hash()
  return string.format("%016d%016d", math.random(0, 1e16 - 1), math.random(0, 1e16 - 1))
end

function init(arguments)
  wrk.path = wrk.path:gsub("/$", "")
  math.randomseed(os.time() * 16 + number)
  if arguments[1] == "hits" then
    for hash in io.lines(arguments[2]) do requests[#requests + 1] = of_hash(hash) end
  elseif arguments[1] == "known-misses" then
    math.randomseed(1)
    for n = 1, 1000 do requests[n] = of_hash(random_hash()) end
  else
    fresh = true
    before, after = of_hash("HASH"):match("^(.*)HASH(.*)$")
  end
end

function request()
  if fresh then return before .. random_hash() .. after end
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('\n{"rate": %f, "p99": %f, "refused": %d, "failed": %d}\n',
    summary.requests / summary.duration * 1e6, latency:percentile(99) / 1e3, summary.errors.status, failed))
end
