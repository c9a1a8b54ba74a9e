// What every visitor loads shall stay small: more than this is an error.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const MOST = 4096;
const size = gzipSync(readFileSync("dist/nextclick.js"), { level: 9 }).length;
console.log(`dist/nextclick.js: ${size} of ${MOST} bytes gzip`);
process.exitCode = size > MOST ? 1 : 0;
