/**
 * Prints the conformance matrix out of what the cells of the last run wrote, and writes it as a page, too.
 *
 * Use: node scripts/lib/matrix-table.ts REPORTS
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { allCells } from '../../test/conformance/cells.ts';
import { matrixPage, type Row } from '../../test/conformance/table.ts';

const [reports = '.walkeep/reports'] = process.argv.slice(2);
const directory = join(reports, 'matrix');
const rows = existsSync(directory)
  ? readdirSync(directory)
      .filter((name) => name.endsWith('.json'))
      // a test of this clone wrote it
      .map((name) => JSON.parse(readFileSync(join(directory, name), 'utf8')) as Row)
  : [];
const page = matrixPage(allCells(), rows);
writeFileSync(join(reports, 'matrix.md'), page);
process.stdout.write(page);
