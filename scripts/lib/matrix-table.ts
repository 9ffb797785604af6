/**
 * Prints the conformance matrix out of what the cells of the last run wrote, and writes it as a page, too.
 *
 * Use: node scripts/lib/matrix-table.ts REPORTS
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { allCells } from '../../test/conformance/cells.ts';
import type { CellResult } from '../../test/conformance/outcome.ts';
import { matrixPage } from '../../test/conformance/table.ts';

const [reports = '.walkeep/reports'] = process.argv.slice(2);
const directory = join(reports, 'matrix');
const results = existsSync(directory)
  ? readdirSync(directory)
      .filter((name) => name.endsWith('.json'))
      // a test of this clone wrote it
      .map((name) => JSON.parse(readFileSync(join(directory, name), 'utf8')) as CellResult)
  : [];
const page = matrixPage(allCells(), results);
writeFileSync(join(reports, 'matrix.md'), page);
process.stdout.write(page);
