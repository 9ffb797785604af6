import type { CapacityState, Permit } from './capacity-state.ts';
import { table } from './page.ts';

const SHOWN = 20;

/** A shared thing as the Web UI shows it under "current details". @param now ms since 1970 */
export function capacityPage(key: string, state: CapacityState, now: number): string {
  const restores = state.holders.filter(({ kind }) => kind === 'restore').length;
  const backups = state.holders.length - restores;
  return [
    `### ${key}: ${backups} of ${state.limit} backups run, ${state.waiting.length} wait`,
    ...(restores > 0 ? [`${restores} restores run; they go ahead of backups, and count.`] : []),
    ...section('Running', state.holders, (one) => since(one.grantedAt ?? one.askedAt, now)),
    ...section('Waiting', state.waiting, (one) => since(one.askedAt, now)),
  ].join('\n');
}

function section(title: string, permits: readonly Permit[], time: (one: Permit) => string): string[] {
  if (permits.length === 0) return [];
  const rows = permits.slice(0, SHOWN).map((one, index) => [String(index + 1), one.workflowId, time(one)]);
  const more = permits.length - SHOWN;
  return ['', table(['', title, 'for'], rows), ...(more > 0 ? [`… and ${more} more`] : [])];
}

function since(at: number, now: number): string {
  const minutes = Math.floor(Math.max(0, now - at) / 60_000);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}
