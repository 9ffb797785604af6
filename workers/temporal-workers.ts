import type { DataConverter } from '@temporalio/common';
import {
  bundleWorkflowCode,
  Worker,
  type NativeConnection,
  type WorkflowBundleOption,
} from '@temporalio/worker';
import { failureInterceptor } from '../activities/failure.ts';
import { temporalLogger, type Log } from './log.ts';
import { workflowSource } from './workflow-bundle.ts';

/** A task queue, and what is done for it: the workflows, or these activities. */
export interface QueueWork {
  readonly taskQueue: string;
  /** Absent: the workflows. */
  readonly activities?: object;
  /** What workflows run in their own worker: short, and needing nothing of a host. */
  readonly localActivities?: object;
}

export interface WorkersParts {
  /** Who this is, for people: it stands in every event. */
  readonly identity: string;
  readonly queues: readonly QueueWork[];
  readonly log: Log;
  readonly graceMs: number;
}

export type CreateWorkers = (
  connection: NativeConnection,
  temporalNamespace: string,
  dataConverter: DataConverter,
) => Promise<Worker[]>;

/** Makes the workers of the queues, for each connection anew; the workflows are bundled once. */
export function createWorkersWith({ identity, queues, log, graceMs }: WorkersParts): CreateWorkers {
  const bundles = new Map<string, Promise<WorkflowBundleOption>>();
  const interceptor = failureInterceptor((error, activity) =>
    log.warn({ error, activity }, `${activity} failed`),
  );
  const bundled = (failureConverterPath?: string): Promise<WorkflowBundleOption> => {
    const key = failureConverterPath ?? '';
    const known = bundles.get(key);
    if (known) return known;
    const made = bundle(log, failureConverterPath);
    bundles.set(key, made);
    made.catch(() => bundles.delete(key));
    return made;
  };
  return async (connection, temporalNamespace, dataConverter) => {
    const common = {
      connection,
      namespace: temporalNamespace,
      dataConverter,
      identity,
      shutdownGraceTime: graceMs,
      shutdownForceTime: graceMs + 90_000,
      maxHeartbeatThrottleInterval: 5_000,
      // Quiet queues: a database does few things at a time.
      maxConcurrentActivityTaskPolls: 2,
      maxConcurrentWorkflowTaskPolls: 2,
      maxConcurrentActivityTaskExecutions: 20,
      interceptors: { activity: [interceptor] },
    };
    const created: Worker[] = [];
    for (const { taskQueue, activities, localActivities } of queues) {
      const does = activities
        ? { activities }
        : {
            workflowBundle: await bundled(dataConverter.failureConverterPath),
            maxCachedWorkflows: 200,
            // Polled for workflows only.
            ...(localActivities && { activities: localActivities, enableNonLocalActivities: false }),
          };
      created.push(await Worker.create({ ...common, taskQueue, ...does }));
    }
    return created;
  };
}

async function bundle(log: Log, failureConverterPath?: string): Promise<WorkflowBundleOption> {
  const source = workflowSource({ encrypted: failureConverterPath !== undefined });
  if ('workflowBundle' in source) return source.workflowBundle;
  return bundleWorkflowCode({
    workflowsPath: source.workflowsPath,
    logger: temporalLogger(log),
    ...(failureConverterPath !== undefined && { failureConverterPath }),
  });
}
