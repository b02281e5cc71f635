/** Numbers, sizes and times as people read them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { duration, fileName, number, plain, readNumber, size } from "../../javascript/adapter_lab/kit/format.js";
import { S, put } from "../../javascript/adapter_lab/kit/strings.js";

test("sizes count in 1024 and keep three digits", () => {
    assert.deepEqual([0, 1023, 1024, 1248680, 1024 ** 2 - 1, 170 * 1024 ** 2, 3 * 1024 ** 5].map(size), ["0 bytes", "1023 bytes", "1.00 KB", "1.19 MB", "1.00 MB", "170 MB", "3072 TB"]);
    assert.equal(size(null), "–");
});

test("durations have the units that matter", () => {
    assert.deepEqual([0.4, 59.4, 59.6, 60, 3599, 3725, Infinity, null].map(duration), ["0 s", "59 s", "1 min", "1 min", "1 h 0 min", "1 h 2 min", "–", "–"]);
});

test("numbers have three digits, and an exponent where that is shorter", () => {
    assert.deepEqual([0, 0.1234, 12345, 1e-4, 1.5e-7, 123456789, NaN, undefined].map(number), ["0", "0.123", "12300", "1e-4", "1.5e-7", "1.23e8", "–", "–"]);
});

test("what is typed is a number where it is one, else text that the server names", () => {
    assert.deepEqual(["1e-4", " 0,5 ", "-3", "", "  ", "1,000,000", "auto", "Infinity"].map((text) => readNumber(text, 7)), [1e-4, 0.5, -3, 7, 7, "1,000,000", "auto", "Infinity"]);
});

test("values of settings are one line", () => {
    assert.deepEqual([true, [], ["a", { b: 1 }], 3, 0.12345, ""].map(plain), ["yes", "–", 'a, {"b":1}', "3", "0.123", "–"]);
    assert.equal(fileName("C:\\pictures\\cats\\"), "cats");
});

test("a sentence's places are those of its values, and no sentence is empty", () => {
    assert.equal(put("{1} of {0}, {1}", 3, 2), "2 of 3, 2");
    const walk = (value) => (typeof value === "string" ? assert.ok(value.trim()) : Object.values(value).forEach(walk));
    walk(S);
});
