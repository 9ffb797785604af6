/** Prints which promises of test/promises.txt no test title names. Exit 0 either way: it is a reading, not a gate. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const promises = readFileSync(join(root, 'test/promises.txt'), 'utf8')
  .split('\n')
  .filter((line) => /^[A-Z]\d+ /.test(line))
  .map((line) => ({ id: line.slice(0, line.indexOf(' ')), text: line.slice(line.indexOf(' ') + 1) }));
const titles = globSync('test/**/*.test.ts', { cwd: root })
  .map((file) => readFileSync(join(root, file), 'utf8'))
  .join('\n');

const unnamed = promises.filter(({ id }) => !new RegExp(`['"\`(, ]${id}(?=[:,) ])`).test(titles));
console.log(`promises named by test titles: ${promises.length - unnamed.length} of ${promises.length}`);
for (const { id, text } of unnamed) console.log(`  no test names ${id}: ${text}`);
