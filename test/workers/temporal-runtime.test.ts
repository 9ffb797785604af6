import { Runtime } from '@temporalio/worker';
import { createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import { createLog } from '../../workers/log.ts';
import { installRuntime } from '../../workers/temporal-runtime.ts';
import { freePort } from '../support/processes.ts';

describe('Temporal’s own metrics', () => {
  const log = createLog({}, 'silent');

  it('F5: a port that is taken costs the metrics, not the worker', async () => {
    const port = await freePort();
    const taken = createServer();
    await new Promise<void>((listening) => taken.listen(port, '127.0.0.1', listening));
    installRuntime(log, { host: '127.0.0.1', port });
    expect(Runtime.instance().options.shutdownSignals).toEqual([]);
    await Runtime.instance().shutdown();
    taken.close();
  });

  it('are served where somebody asked for them', async () => {
    const port = await freePort();
    installRuntime(log, { host: '127.0.0.1', port });
    expect((await fetch(`http://127.0.0.1:${port}/metrics`)).ok).toBe(true);
    // Once a process: what comes later leaves it as it is.
    installRuntime(log);
    expect((await fetch(`http://127.0.0.1:${port}/metrics`)).ok).toBe(true);
    await Runtime.instance().shutdown();
  });
});
