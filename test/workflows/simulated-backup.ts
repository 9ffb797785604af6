import { proxySinks, sleep, workflowInfo, type Sinks } from '@temporalio/workflow';
import { Permits, wantsOf } from '../../workflows/permits.ts';

export { capacity } from '../../workflows/capacity.ts';

export interface SimulatedInput {
  readonly kind: 'backup' | 'restore';
  readonly perStore: number;
  readonly copyMs: number;
}

/** Told at the moment a copy begins and ends, once: not in replays. */
export interface CopySinks extends Sinks {
  copies: {
    begin(run: { readonly workflowId: string; readonly kind: SimulatedInput['kind'] }): void;
    end(run: { readonly workflowId: string; readonly kind: SimulatedInput['kind'] }): void;
  };
}

/** A Backup or restore of one cluster, with a timer in the place of its copy; its turn is taken as `baseBackup` does. */
export async function simulated({ kind, perStore, copyMs }: SimulatedInput): Promise<void> {
  const permits = new Permits();
  const { copies } = proxySinks<CopySinks>();
  const { workflowId } = workflowInfo();
  const deadline = Date.now() + 3_600_000;
  const wants = wantsOf({ store: 'fleet', perStore }, 'nowhere');
  const held = await permits.acquire(wants, { kind, deadline, expiresAt: deadline });
  try {
    copies.begin({ workflowId, kind });
    await sleep(copyMs);
    copies.end({ workflowId, kind });
  } finally {
    await held.release();
  }
}
