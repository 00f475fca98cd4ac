-- Loops that the JIT compiles (numbers, tables, strings, closures), and calls that it must leave through side exits.
local function sieve(n)
  local composite, count = {}, 0
  for i = 2, n do
    if not composite[i] then
      count = count + 1
      for j = i * i, n, i do composite[j] = true end
    end
  end
  return count
end

local function spectral(n)
  local u, v = {}, {}
  local function a(i, j) return 1 / ((i + j) * (i + j + 1) / 2 + i + 1) end
  for i = 1, n do u[i] = 1 end
  for _ = 1, 4 do
    for i = 1, n do
      local t = 0
      for j = 1, n do t = t + a(i - 1, j - 1) * u[j] end
      v[i] = t
    end
    u, v = v, u
  end
  return u[1]
end

local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end

local function words(n)
  local parts, x = {}, 42
  for i = 1, n do
    x = (x * 16807) % 2147483647
    parts[i] = ("w%d"):format(x % 100)
  end
  local count = 0
  for w in table.concat(parts, " "):gmatch("w%d%d?") do count = count + #w end
  return count
end

local Point = {}
Point.__index = Point
local function point(x, y) return setmetatable({ x = x, y = y }, Point) end
function Point:add(o) return point(self.x + o.x, self.y + o.y) end

local function objects(n)
  local p = point(0, 0)
  for i = 1, n do p = p:add(point(i % 3, i % 5)) end
  return p.x * p.y
end

-- functions made afresh, each compiled once it is hot
local function made(n)
  local sum = 0
  for i = 1, n do
    local f = loadstring(("local x = ... for i = 1, 200 do x = (x * %d + %d) %% 65521 end return x"):format(i, i * 7))
    sum = sum + f(i)
  end
  return sum
end

local bit = require("bit")
local function hash(n)
  local h = 5381
  for i = 1, n do h = bit.bxor(bit.lshift(h, 5), bit.rshift(h, 3), i) end
  return h
end

print(sieve(500000), ("%.9f"):format(spectral(500)), fib(27), words(20000), objects(3000000), made(300), hash(5000000))
