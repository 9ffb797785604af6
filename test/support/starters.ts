import { runSuccessfully } from './processes.ts';
import type { TemporalServer } from './temporal.ts';
import { toolPath } from './tools.ts';

export interface WorkflowStart {
  readonly type: string;
  readonly workflowId: string;
  /** Plain JSON, as a person types it. */
  readonly input: unknown;
  readonly cron?: string;
}

/** A command line that starts workflows: Temporal's of today, and the one before it. */
export interface Starter {
  readonly name: 'temporal' | 'tctl';
  start(what: WorkflowStart): Promise<string>;
}

export function createStarters(temporal: TemporalServer): readonly Starter[] {
  const rest = ({ input, cron }: WorkflowStart): string[] => [
    '--input',
    JSON.stringify(input),
    ...(cron === undefined ? [] : ['--cron', cron]),
  ];
  return [
    {
      name: 'temporal',
      start: async (what) => {
        const named = ['--type', what.type, '--task-queue', 'walkeep', '--workflow-id', what.workflowId];
        return temporal.cli('workflow', 'start', ...named, ...rest(what));
      },
    },
    {
      name: 'tctl',
      start: async (what) => {
        const named = [
          '--workflow_type',
          what.type,
          '--taskqueue',
          'walkeep',
          '--workflow_id',
          what.workflowId,
        ];
        return tctl(temporal, 'workflow', 'start', ...named, ...rest(what));
      },
    },
  ];
}

/** Runs `tctl ...` against a server. @returns standard output */
export async function tctl(temporal: TemporalServer, ...args: string[]): Promise<string> {
  return runSuccessfully(toolPath('tctl'), [
    '--address',
    temporal.address,
    '--namespace',
    temporal.namespace,
    ...args,
  ]);
}
