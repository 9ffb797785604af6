import { defineConfig } from 'vitest/config';

const SECOND_MS = 1000;

/** Folders whose tests start servers, or break them. */
const WITH_SERVERS = ['test/integration/**', 'test/e2e/**', 'test/faults/**', 'test/conformance/**'];

/** Stories of many minutes in which faults follow each other: scripts/conformance runs them. */
const LONG = ['failing-disk', 'wire', 'secrets', 'slots', 'schedule', 'sweep', 'sweep-and-proof'].map(
  (name) => `test/faults/${name}.test.ts`,
);

/** All that barman-cloud and walkeep do to each other's repositories: scripts/conformance; a few cells run everywhere. */
const MATRIX = ['test/conformance/matrix-*.test.ts'];

/** What scripts/bench runs, at its own length. */
const BENCH = ['test/bench/*.test.ts'];

const SERVERS = { testTimeout: 180 * SECOND_MS, hookTimeout: 180 * SECOND_MS };

export default defineConfig({
  test: {
    // A process for each file: the native core of Temporal and a test's children end with it.
    pool: 'forks',
    maxWorkers: 2,
    passWithNoTests: true,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...WITH_SERVERS, ...BENCH],
          testTimeout: 20 * SECOND_MS,
          hookTimeout: 60 * SECOND_MS,
        },
      },
      {
        extends: true,
        test: {
          name: 'integration',
          include: WITH_SERVERS.map((folder) => `${folder}/*.test.ts`),
          exclude: [...LONG, ...MATRIX],
          ...SERVERS,
          // CI's machine is shared and noisy, and these wait for real servers. What needs it is shown in the report.
          retry: process.env['CI'] === undefined ? 0 : 1,
        },
      },
      { extends: true, test: { name: 'bench', include: BENCH, ...SERVERS } },
      // Whoever died is waited for, by heartbeats and the pauses between attempts, more than once in a test.
      { extends: true, test: { name: 'long', include: LONG, ...SERVERS, testTimeout: 300 * SECOND_MS } },
      { extends: true, test: { name: 'matrix', include: MATRIX, ...SERVERS } },
    ],
  },
});
