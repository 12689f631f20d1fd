"""What is shown of the gateway and its pipeline: health, metrics, receipts, traces, OpenTelemetry.
Not covered: the dashboard, a page that reads what is shown here.
"""
