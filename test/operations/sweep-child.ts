/** A sweep in a process of its own, for tests that kill or freeze it. Argument: JSON of `SweepOrder`. */
import { parseDuration } from '../../core/duration.ts';
import { sweep } from '../../operations/sweep.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { benchRules, type PolicyChanges } from './sweep-bench.ts';

export interface SweepOrder {
  readonly directory: string;
  readonly server: string;
  readonly policy?: PolicyChanges;
  readonly ttlMs: number;
}

const order = JSON.parse(process.argv[2] as string) as SweepOrder;
const repository = createRepository(openStore({ kind: 'file', directory: order.directory }), order.server);
const { signal } = new AbortController();
try {
  const report = await sweep(repository, benchRules(order.policy), {
    signal,
    holder: `child ${process.pid}`,
    lease: { ttlMs: order.ttlMs, settleMs: parseDuration('100ms') },
  });
  process.stdout.write(`${JSON.stringify(report)}\n`);
} catch (error) {
  process.stdout.write(
    `${error instanceof Error ? `${'code' in error ? String(error.code) : ''} ${error.message}` : String(error)}\n`,
  );
  process.exitCode = 1;
}
