import type { CheckItem } from '../operations/check-cluster.ts';
import { printable } from './output.ts';

const MARKS = { ok: 'ok     ', warning: 'WARNING', problem: 'PROBLEM', unknown: 'unknown' } as const;

/** Items for people, one a line, and a verdict. @param otherwise what problems mean, in a clause */
export function formatCheckItems(items: readonly CheckItem[], otherwise: string): string {
  const width = Math.max(...items.map(({ item }) => item.length));
  const lines = items.map(({ item, state, found, todo }) => {
    const line = `${MARKS[state]}  ${item.padEnd(width)}  ${found.replaceAll('\n', ' ')}\n`;
    return todo === undefined ? line : `${line}${' '.repeat(9)}${' '.repeat(width)}  -> ${todo}\n`;
  });
  const count = (state: CheckItem['state']) => items.filter((item) => item.state === state).length;
  const problems = count('problem');
  const warnings = count('warning');
  const unknown = count('unknown');
  const verdict =
    problems > 0
      ? `${problems} ${problems === 1 ? 'problem' : 'problems'}, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}: ${otherwise}.`
      : warnings > 0
        ? `no problem, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}.`
        : unknown > 0
          ? `no problem, ${unknown} ${unknown === 1 ? 'item is' : 'items are'} not known.`
          : 'everything is as it should be.';
  return printable(`${lines.join('')}\n${verdict}\n`);
}
