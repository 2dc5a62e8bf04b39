"use strict";
// Numbers in the units that the dashboards use, as short as they can be read.

function digits(value, decimals) {
  if (decimals !== undefined) return value.toFixed(decimals);
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size >= 100 ? value.toFixed(0) : size >= 10 ? trimmed(value.toFixed(1)) : trimmed(value.toPrecision(2));
}

function trimmed(text) {
  return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
}

function seconds(value, decimals) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${digits(value * 1e6, decimals)} µs`;
  if (size < 1) return `${digits(value * 1e3, decimals)} ms`;
  return size < 120 ? `${digits(value, decimals)} s` : `${digits(value / 60, decimals)} min`;
}

const FORMATS = {
  s: seconds,
  percentunit: (value, decimals) => `${digits(value * 100, decimals)} %`,
  reqps: (value, decimals) => `${digits(value, decimals)} req/s`,
  ops: (value, decimals) => `${digits(value, decimals)} /s`,
  "tok/s": (value, decimals) => `${digits(value, decimals)} tok/s`,
  none: digits,
};

function written(value, unit, decimals) {
  const format = FORMATS[unit];
  if (!format) throw new Error(`no format for the unit ${unit}`);
  return format(value, decimals);
}

// Time since the beginning, because the hour of a recorded load means nothing.
function elapsed(moment) {
  const passed = Math.max(0, Math.round(moment - BOARD.from));
  return `${Math.floor(passed / 60)}:${String(passed % 60).padStart(2, "0")}`;
}
