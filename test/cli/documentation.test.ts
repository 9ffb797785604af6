import { readFileSync, existsSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';
import { EXIT, exitCodeOf } from '../../cli/exit-codes.ts';
import { ERRORS, type ErrorCode } from '../../core/errors.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const cliPage = readFileSync(join(root, 'docs/cli.md'), 'utf8');

describe('docs/cli.md', () => {
  test.for(Object.entries(EXIT))('documents the exit code %s', ([, code]) => {
    expect(cliPage).toMatch(new RegExp(`^\\| ${code} +\\|`, 'm'));
  });

  it('names every command of the program', () => {
    const main = readFileSync(join(root, 'cli/program.ts'), 'utf8');
    const names = [...main.matchAll(/^ {4}name: '([a-z-]+)',$/gm)].map(([, name]) => name ?? '');
    expect(names.length).toBeGreaterThan(10);
    for (const name of names) expect(cliPage).toContain(`\`${name}`);
  });

  it('every failure has an exit code that the page explains', () => {
    const codes = new Set<number>(Object.values(EXIT));
    for (const code of Object.keys(ERRORS)) expect(codes).toContain(exitCodeOf(code as ErrorCode));
  });
});

describe('the pages', () => {
  const pages = [
    'README.md',
    'CONTRIBUTING.md',
    ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
  ];

  test.for(pages.filter((page) => page.endsWith('.md')))('%s links only to what is there', (page) => {
    const text = readFileSync(join(root, page), 'utf8');
    const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)/g)].map(
      ([, target]) => target ?? '',
    );
    for (const link of links)
      expect(existsSync(resolve(root, dirname(page), link)), `${page} → ${link}`).toBe(true);
  });
});
